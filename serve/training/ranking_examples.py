"""Ranking examples: what the scorer learns from. Candidates of users at times in the past, with their outcomes.

There are two kinds of lists, both with all data as of their time (embed.behaviour.splits):

- **shown**: a list of the impression log. The outcome of each item is what the log has; positions are known.
- **sought**: a user who later liked a new item. The liked items are compared with candidates of the pipeline without an
  outcome, of which the better ones are likelier to be taken (hard negatives), and with random items.

Shown lists get some of these negatives too; otherwise the scorer would know nothing about items that are never shown.

A negative that is sampled with probability c makes the odds of an outcome 1 / c times what they are. The offset
log(1 / c) of a row corrects that, so that the model holds for all candidates (Fithian and Hastie, "Local Case-Control
Sampling", Annals of Statistics 2014).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Interactions
from embed.behaviour.interactions import KINDS
from serve.core.ranking_settings import HEADS, ScorerSettings
from serve.recommend.ranking.feature import HISTORY, FeatureContext
from serve.recommend.ranking.feature_builder import FeatureBuilder, FeatureLayout, FeatureMatrix, hour_of_day
from serve.recommend.ranking.impressions import HEAD_EVENTS, ImpressionTable
from serve.recommend.retrieval.candidates import DEPTH, CandidateGenerator
from serve.recommend.retrieval.user_history import UserHistory

MAX_WEIGHT = 10.0  # of a row
NO_HISTORY = UserHistory(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0, np.float32))


@dataclass(frozen=True)
class LabelledList:
    """m candidates of one user.

    Attributes:
        features: Their features.
        labels: Their outcomes, [m, heads].
        shown: Whether they were shown, [m].
        position: Their position in the shown list, [m].
        propensity: The probability of being shown there, [m]; NaN for unknown.
        offset: See Examples, [m].
    """

    features: FeatureMatrix
    labels: NDArray[np.bool_]
    shown: NDArray[np.bool_]
    position: NDArray[np.float32]
    propensity: NDArray[np.float32]
    offset: NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """n candidates of c lists, list by list.

    `offset` [n] is by how much sampling raised the log odds of an outcome. Histories are by list, padded on the left:
    `kinds`, `gaps` and `there` (0 for padding) [c, HISTORY]; so are the channels `pairs` [n, HISTORY, p]. `case` [n] is
    the list of each row, `weight` [n] its weight in the loss.
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
        """Return the rows of some lists, which keep their numbers."""
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
    def stacked(cls, cases: Iterator[LabelledList], layout: FeatureLayout, settings: ScorerSettings) -> "Examples":
        """Stack all lists."""
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
            raise ValueError("no examples to learn from")
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
    """Return the weight of each row.

    An outcome at a position that few users look at weighs the inverse of the share that does. If the settings say so,
    shown items weigh the inverse of their propensity, so that rarely drawn items count like frequently drawn ones.
    """
    weight = np.ones(len(case.labels), np.float32)
    if settings.inverse_propensity:
        weight = np.minimum(MAX_WEIGHT, 1 / np.nan_to_num(case.propensity, nan=1.0))
    if settings.position_power:
        placed = ~np.isnan(case.position) & case.labels.any(1)
        weight[placed] *= np.minimum(MAX_WEIGHT, (1 + case.position[placed]) ** settings.position_power)
    return weight


class LabelledListBuilder:
    """Builds labelled lists with the retrievers and features of one time; `interactions` also has what came later."""

    def __init__(
        self,
        generator: CandidateGenerator,
        builder: FeatureBuilder,
        interactions: Interactions,
        settings: ScorerSettings,
    ) -> None:
        self._generator, self._builder, self._settings = generator, builder, settings
        self._interactions = interactions
        self._user = {name: number for number, name in enumerate(interactions.users.tolist())}
        self._random = np.random.default_rng(settings.seed)

    def split_history(
        self, user: int, moment: float, items: NDArray[np.int64]
    ) -> tuple[UserHistory, NDArray[np.int64]]:
        """Return a user's history before a list was shown, and the items of later interactions.

        Events that were merged into one interaction may include outcomes of the list: the last interaction before
        `moment` is dropped if its item is in the list.
        """
        whole = UserHistory.from_interactions(self._interactions, user)
        count = int(np.searchsorted(whole.time, moment))
        after = whole.item[count:]
        if count and whole.item[count - 1] in items:
            count -= 1
        return whole.first(count), after

    def shown(self, lists: ImpressionTable, chosen: NDArray[np.int64]) -> Iterator[LabelledList]:
        """Yield the examples of some shown lists."""
        for number in chosen.tolist():
            rows = slice(lists.starts[number], lists.starts[number + 1])
            items, first = np.unique(lists.item[rows], return_index=True)
            name, moment = lists.users[number], float(lists.times[number])
            row = self._user.get(name)
            user, after = NO_HISTORY, np.empty(0, np.int64)
            if row is not None:
                user, after = self.split_history(row, moment, items)
            position, propensity = lists.position[rows][first], lists.propensity[rows][first]
            yield self._case(user, items, lists.labels[rows][first], moment, after, position, propensity)

    def sought(self, whole: UserHistory, count: int, moment: float) -> LabelledList | None:
        """Return the example of a user with `count` known interactions; None if the user later liked no new item."""
        user, after = whole.first(count), whole.item[count:]
        each = label_heads(whole.kind[count:], whole.weight[count:] > 0)
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
        """Return the items and sampled negatives, which the user had neither before nor soon `after`."""
        settings, total = self._settings, self._interactions.items
        excluded = np.setdiff1d(np.concatenate([user.item, after]), items)
        drawn = np.setdiff1d(self._random.integers(0, total, settings.random_negatives), excluded)
        found = self._generator.generate(user, DEPTH, excluded, extra=np.union1d(items, drawn))
        # The probability of sampling a candidate without an outcome falls with the square root of its rank.
        proposed = np.logical_or.reduce(list(found.proposed.values()))
        worth = proposed / np.sqrt(1 + np.arange(len(proposed)))
        # A shown list has negatives of its own: a few more suffice.
        count = settings.hard_negatives if position is None else settings.hard_negatives / 4
        hard = np.minimum(1, count * worth / worth.sum())
        probability = 1 - (1 - hard) * (1 - min(0.5, settings.random_negatives / total))
        rows = np.flatnonzero(
            np.isin(found.items, items) | np.isin(found.items, drawn) | (self._random.random(len(hard)) < hard)
        )
        sampled = found.items[rows]
        at = np.searchsorted(items, sampled).clip(max=len(items) - 1)
        own = items[at] == sampled
        all_labels = np.zeros((len(rows), len(HEADS)), np.bool_)
        all_labels[own] = labels[at[own]]
        all_positions, likely = np.full(len(rows), np.nan, np.float32), np.full(len(rows), np.nan, np.float32)
        if propensity is not None:
            likely[own] = propensity[at[own]]
        if position is not None:
            # Negatives get random positions of the list, so that a missing position does not reveal the outcome.
            all_positions = self._random.choice(position, len(rows)).astype(np.float32)
            all_positions[own] = position[at[own]]
        is_shown = own if position is not None else np.zeros(len(rows), np.bool_)
        offset = np.where(is_shown, 0, -np.log(probability[rows].clip(min=1e-6))).astype(np.float32)
        # The hour of a sought list is unknown: the items were liked at any time after the moment.
        hour = hour_of_day(moment) if position is not None else None
        context = FeatureContext(moment, hour, position=all_positions)
        features = self._builder.build(user, found, context, rows)
        return LabelledList(features, all_labels, is_shown, all_positions, likely, offset)


def label_heads(kinds: NDArray[np.integer], liked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which heads have an outcome in n interactions by their kinds [n], [n, heads]; only liked ones have."""
    named = [np.isin(kinds, [KINDS.index(type_) for type_ in HEAD_EVENTS[head]]) for head in HEADS]
    return np.stack(named, 1) & liked[:, None]
