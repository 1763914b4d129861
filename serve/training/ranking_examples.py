"""Examples: what the scorer learns from. Candidates of shoppers at moments of the past, and what came of them.

Two kinds of case, both with everything as it was at the moment, by the rules of embed.behaviour.splits:

- **shown**: a list from the log of impressions. What came of each item is what the log says; places are known.
- **sought**: a shopper who went on to like something new. That is set against candidates of the pipeline that nothing
  came of, the better ones likelier (hard negatives), and against items drawn at random.

Shown lists also get some of these negatives: items that nobody is ever shown would otherwise be a blind spot.

A negative that is here with probability c makes the odds of an outcome 1 / c times what they are. The offset log(1 / c)
of a row takes that out again, so that what is learned holds for all candidates (Fithian and Hastie, "Local
Case-Control Sampling", Annals of Statistics 2014).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Interactions
from embed.behaviour.interactions import KINDS
from serve.core.ranking_settings import HEADS, ScorerSettings
from serve.recommend.ranking.feature_builder import HISTORY, FeatureBuilder, Features, Layout, RankingContext, hour_of
from serve.recommend.ranking.impressions import INTERACTIONS, ImpressionTable
from serve.recommend.retrieval.candidates import DEPTH, CandidateGenerator
from serve.recommend.retrieval.user_history import UserHistory

MAX_INVERSE = 10.0
NOBODY = UserHistory(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.float32))


@dataclass(frozen=True)
class LabelledList:
    """Features of m candidates of one shopper, what came of them [m, heads], and which were `shown` [m].

    `position` [m] are places in a list that was shown, `propensity` [m] is how likely it was to be there, NaN where
    that is not known; `offset` [m] see Examples.
    """

    features: Features
    labels: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    position: NDArray[np.float32]
    propensity: NDArray[np.float32]
    offset: NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """n candidates of c cases. Of each row its features, its case [n], labels [n, heads], weight [n], `shown` [n].

    `offset` [n] is by how much the odds of an outcome are higher here, as only some of what nothing came of is here.

    Histories are by case, padded on the left: `kinds`, `gaps` and `there` [c, HISTORY]; so are `pairs` [n, HISTORY, p].
    """

    values: NDArray[np.float32]
    pairs: NDArray[np.float16]
    case: NDArray[np.int64]
    labels: NDArray[np.bool_]
    weight: NDArray[np.float32]
    shown: NDArray[np.bool_]
    offset: NDArray[np.float32]
    kinds: NDArray[np.int64]
    gaps: NDArray[np.float32]
    there: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.case)

    def of(self, cases: NDArray[np.bool_]) -> "Examples":
        """Those of some cases, whose numbers stay."""
        rows = cases[self.case]
        return Examples(
            self.values[rows],
            self.pairs[rows],
            self.case[rows],
            self.labels[rows],
            self.weight[rows],
            self.shown[rows],
            self.offset[rows],
            self.kinds,
            self.gaps,
            self.there,
        )

    @classmethod
    def stacked(cls, cases: Iterator[LabelledList], layout: Layout, settings: ScorerSettings) -> "Examples":
        """All cases one after the other."""
        values, pairs, number, labels, weights, shown, offset, kinds, gaps, there = ([] for _ in range(10))
        for place, case in enumerate(cases):
            features, history = case.features, case.features.pairs.shape[1]
            values.append(features.values)
            padded = np.zeros((len(features), HISTORY, len(layout.channels)), np.float16)
            padded[:, HISTORY - history :] = features.pairs
            pairs.append(padded)
            number.append(np.full(len(features), place))
            labels.append(case.labels)
            weights.append(_weights(case, settings))
            shown.append(case.shown)
            offset.append(case.offset)
            before = HISTORY - history
            kinds.append(np.pad(features.kinds, (before, 0)))
            gaps.append(np.pad(features.gaps, (before, 0)))
            there.append(np.pad(np.ones(history, np.float32), (before, 0)))
        if not values:
            raise ValueError("there is no case to learn from")
        return cls(
            np.concatenate(values),
            np.concatenate(pairs),
            np.concatenate(number),
            np.concatenate(labels),
            np.concatenate(weights),
            np.concatenate(shown),
            np.concatenate(offset),
            np.stack(kinds),
            np.stack(gaps),
            np.stack(there),
        )


def _weights(case: LabelledList, settings: ScorerSettings) -> NDArray[np.float32]:
    """What each row counts: what happened at a place where few look, by the inverse of how many do.

    What was shown counts by the inverse of how likely that was, where that is wanted, so that what was drawn seldom is
    learned from like what was drawn often.
    """
    weight = np.ones(len(case.labels), np.float32)
    if settings.inverse_propensity:
        weight = np.minimum(MAX_INVERSE, 1 / np.nan_to_num(case.propensity, nan=1.0))
    if settings.position_power:
        placed = ~np.isnan(case.position) & case.labels.any(1)
        weight[placed] *= np.minimum(MAX_INVERSE, (1 + case.position[placed]) ** settings.position_power)
    return weight


class LabelledListBuilder:
    """Makes cases with the sources and features of one moment; what shoppers did until later is in `interactions`."""

    def __init__(
        self,
        recommender: CandidateGenerator,
        maker: FeatureBuilder,
        interactions: Interactions,
        settings: ScorerSettings,
    ) -> None:
        self._recommender, self._maker, self._settings = recommender, maker, settings
        self._interactions = interactions
        self._user = {name: number for number, name in enumerate(interactions.users.tolist())}
        self._random = np.random.default_rng(settings.seed)

    def around(self, user: int, moment: float, items: NDArray[np.int64]) -> tuple[UserHistory, NDArray[np.int64]]:
        """A shopper as known before a list of items was shown at a moment, and the items of what came after.

        Of acts that were merged into one, the last before the moment may hold what came of the list: it is left out
        where its item is in the list.
        """
        whole = UserHistory.of(self._interactions, user)
        count = int(np.searchsorted(whole.time, moment))
        after = whole.item[count:]
        if count and whole.item[count - 1] in items:
            count -= 1
        return whole.first(count), after

    def shown(self, lists: ImpressionTable, chosen: NDArray[np.int64]) -> Iterator[LabelledList]:
        """The cases of some lists."""
        for number in chosen.tolist():
            rows = slice(lists.starts[number], lists.starts[number + 1])
            items, first = np.unique(lists.item[rows], return_index=True)
            name, moment = lists.users[number], float(lists.times[number])
            row = self._user.get(name)
            user, after = NOBODY, np.empty(0, np.int64)
            if row is not None:
                user, after = self.around(row, moment, items)
            position, propensity = lists.position[rows][first], lists.propensity[rows][first]
            yield self._case(user, items, lists.labels[rows][first], moment, after, position, propensity)

    def sought(self, whole: UserHistory, count: int, moment: float) -> LabelledList | None:
        """The case of a shopper who is known by the first `count` interactions; None where nothing new was liked."""
        user, after = whole.first(count), whole.item[count:]
        each = labels_of(whole.kind[count:], whole.weight[count:] > 0)
        new = (whole.weight[count:] > 0) & ~np.isin(after, user.item)
        liked, place = np.unique(after[new], return_inverse=True)
        if not len(liked):
            return None
        labels = np.zeros((len(liked), len(HEADS)), np.bool_)
        np.logical_or.at(labels, place, each[new])
        return self._case(user, liked, labels, moment, np.empty(0, np.int64))

    def _case(
        self,
        user: UserHistory,
        items: NDArray[np.int64],
        labels: NDArray[np.bool_],
        moment: float,
        after: NDArray[np.int64],
        position: NDArray[np.float32] | None = None,
        propensity: NDArray[np.float32] | None = None,
    ) -> LabelledList:
        """The items of a case and negatives beside them, none of which the shopper had or had soon `after`."""
        settings, total = self._settings, self._interactions.items
        excluded = np.setdiff1d(np.concatenate([user.item, after]), items)
        drawn = np.setdiff1d(self._random.integers(0, total, settings.random), excluded)
        found = self._recommender.candidates(user, DEPTH, excluded, also=np.union1d(items, drawn))
        # How likely each is to be here if nothing comes of it: likelier by place, as the inverse of its square root.
        proposed = np.logical_or.reduce(list(found.proposed.values()))
        worth = proposed / np.sqrt(1 + np.arange(len(proposed)))
        # A shown list has what nothing came of itself: a few more will do.
        wished = settings.hard if position is None else settings.hard / 4
        hard = np.minimum(1, wished * worth / worth.sum())
        probability = 1 - (1 - hard) * (1 - min(0.5, settings.random / total))
        wanted = np.isin(found.items, items)
        places = np.flatnonzero(wanted | np.isin(found.items, drawn) | (self._random.random(len(hard)) < hard))
        numbers = found.items[places]
        at = np.searchsorted(items, numbers).clip(max=len(items) - 1)
        own = items[at] == numbers
        all_labels = np.zeros((len(places), len(HEADS)), np.bool_)
        all_labels[own] = labels[at[own]]
        all_positions, likely = np.full(len(places), np.nan, np.float32), np.full(len(places), np.nan, np.float32)
        if propensity is not None:
            likely[own] = propensity[at[own]]
        if position is not None:
            # Negatives get places of the list at random, so that being at no place does not say what came of it.
            all_positions = self._random.choice(position, len(places)).astype(np.float32)
            all_positions[own] = position[at[own]]
        is_shown = own if position is not None else np.zeros(len(places), np.bool_)
        offset = np.where(is_shown, 0, -np.log(probability[places].clip(min=1e-6))).astype(np.float32)
        # Of a sought case nobody knows the hour: what was liked came at any time after the moment.
        hour = hour_of(moment) if position is not None else None
        context = RankingContext(moment, hour, position=all_positions)
        features = self._maker.make(user, found, context, places)
        return LabelledList(features, all_labels, is_shown, all_positions, likely, offset)


def labels_of(kinds: NDArray[np.integer], liked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What interactions of n kinds say of each head, [n, heads]; only those that were liked say anything."""
    named = [np.isin(kinds, [KINDS.index(act) for act in INTERACTIONS[head]]) for head in HEADS]
    return np.stack(named, 1) & liked[:, None]
