"""The ranker: the pipeline of one request, candidates of all sources to a list in the scorer's order.

Without a scorer the blended order stands. It also stands where the scorer fails for a request: that is logged and
counted, and the answer says by what it was ranked.

What nobody had yet cannot show its worth unless somebody sees it. A share of the places is kept for such items, those
that suit the shopper best: one in ten by default, the tenth, the twentieth, and so on.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from embed.behaviour.interactions import KINDS
from index.exact import top
from index.protocol import VectorIndex
from index.selection import Selection
from serve.core.metrics import FAILURES
from serve.core.request_context import is_late, mark_partial, stage
from serve.recommend.ranking.diversity import calibrate, diversify
from serve.recommend.ranking.explanations import Reasons, reasons_of, reasons_of_blend
from serve.recommend.ranking.exploration import Exploration
from serve.recommend.ranking.feature_builder import HISTORY, FeatureBuilder, Features, RankingContext, hour_of
from serve.recommend.ranking.merchandising_rules import ActiveRules
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.scorer import Scorer, Scores, Values
from serve.recommend.retrieval.candidates import DEPTH, CandidateGenerator, Candidates
from serve.recommend.retrieval.retrievers import Items
from serve.recommend.retrieval.retrievers import Scores as Scored
from serve.recommend.retrieval.score_blend import without_interactions
from serve.recommend.retrieval.user_history import UserHistory

POOL = 5  # times as many as are asked for, of which a diverse list is made
MAX_SCORED = 200  # candidates that the scorer puts in order, the best of the blend
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranked:
    """m candidates in their final order. Where a scorer ranked, `scores` are theirs, NaN for those that it did not see.

    `rows` [m] are their places in `features`, -1 for none; `rules` are the names of those that acted, by item number.
    Where a query counts too, see Mix. `propensities` [m] are how likely each was at its place given those before it,
    NaN where that is not known; without any the order could not have been another one.
    """

    found: Candidates
    scores: Scores | None = None
    features: Features | None = None
    rows: NDArray[np.int64] | None = None
    rules: Mapping[int, Sequence[str]] = field(default_factory=dict)
    mix: "RelevanceMix | None" = None
    propensities: Scored | None = None

    def at(self, places: NDArray[np.int64]) -> "Ranked":
        """Those at some places, in the order given."""
        scores = None if self.scores is None else self.scores.at(places)
        rows = None if self.rows is None else self.rows[places]
        mix = None if self.mix is None else self.mix.at(places)
        propensities = None if self.propensities is None else self.propensities[places]
        return Ranked(self.found.at(places), scores, self.features, rows, self.rules, mix, propensities)

    def first(self, places: NDArray[np.int64]) -> "Ranked":
        """Those at some places before the others."""
        return self.at(np.concatenate([places, np.setdiff1d(np.arange(len(self.found.items)), places)]))


@dataclass(frozen=True)
class RelevanceMix:
    """The score of m candidates is `query` [m] + `shift` + `factor` times what the scorer expects of them."""

    query: Scored
    shift: float
    factor: float

    def at(self, places: NDArray[np.int64]) -> "RelevanceMix":
        return RelevanceMix(self.query[places], self.shift, self.factor)


def spread(new: NDArray[np.bool_], share: float, k: int) -> NDArray[np.int64]:
    """The order [at most k] of m items [m], best first, in which of the first p the part `share` is `new`, if any are.

    What is new already as far up as that stays; else the next new one moves up to the place where one is due.
    """
    order = []
    new_ones, others = np.flatnonzero(new).tolist(), np.flatnonzero(~new).tolist()
    taken = 0
    for place in range(1, min(k, len(new)) + 1):
        due = taken < int(place * share + 1e-9)
        if new_ones and (due or not others or new_ones[0] < others[0]):
            order.append(new_ones.pop(0))
            taken += 1
        else:
            order.append(others.pop(0))
    return np.array(order, np.int64)


@dataclass(frozen=True)
class LongTailQuota:
    """A share of the places is for items of less popularity than those have that half of all demand goes to."""

    share: float
    below: float

    @classmethod
    def of(cls, popularity: Scored, share: float) -> "LongTailQuota | None":
        """By the popularity of all items [items]; None for no share, and where nothing is popular."""
        falling = -np.sort(-popularity)
        total = float(falling.sum())
        if not share or total <= 0:
            return None
        return cls(share, float(falling[int(np.searchsorted(np.cumsum(falling), total / 2))]))

    def mask(self, found: Candidates) -> NDArray[np.bool_]:
        """Which of m candidates are in the tail, [m]."""
        popular = found.scores.get("popularity")
        return np.zeros(len(found.items), np.bool_) if popular is None else popular < self.below


@dataclass(frozen=True)
class CategoryCalibration:
    """How much lists keep to the categories of the shopper's own history, and what category each of some items has."""

    calibration: float
    category_of: Callable[[Items], Sequence[str | None]]

    def of(self, user: UserHistory) -> dict[str, float]:
        """The shares of categories in what a shopper liked; nothing for who liked nothing."""
        shares: dict[str, float] = {}
        liked = user.weight > 0
        for category, weight in zip(self.category_of(user.item[liked]), user.weight[liked].tolist(), strict=True):
            if category:
                shares[category] = shares.get(category, 0.0) + weight
        total = sum(shares.values())
        return {category: weight / total for category, weight in shares.items()}


class RankingPipeline:
    """Recommends with a recommender and, where there is one, a scorer.

    `values` say what each head is worth, `new_share` is the share of places for items that nobody had yet, and `spaces`
    are those in which items are alike or not. `margins` gives by how much more or less a purchase of each of some items
    is worth, `online` is what was learned of the scorer since it was trained, `tail` keeps places for what few know,
    `mix` keeps the categories of a list as those of the history.
    """

    def __init__(
        self,
        recommender: CandidateGenerator,
        maker: FeatureBuilder | None,
        scorer: Scorer | None,
        values: Mapping[str, float],
        new_share: float = 0.0,
        spaces: Mapping[str, VectorIndex] | None = None,
        margins: Callable[[Items], Scored] | None = None,
        online: OnlineHead | None = None,
        tail: "LongTailQuota | None" = None,
        mix: "CategoryCalibration | None" = None,
    ) -> None:
        self._tail, self._mix = tail, mix
        self._recommender, self._maker, self._scorer, self._values = recommender, maker, scorer, values
        self._new_share, self._spaces, self._margins, self._online = new_share, spaces or {}, margins, online
        self.failures = 0

    def recommend(
        self,
        user: UserHistory,
        k: int,
        excluded: Items,
        now: float,
        allowed: Selection | None = None,
        diversity: float = 0.0,
        rules: ActiveRules | None = None,
        explore: Exploration | None = None,
    ) -> Ranked:
        """The k best items for a shopper at a moment; k whenever there are k (see Recommender.recommend).

        `diversity`, 0 to 1, is how much it counts that they are not alike (see serve.recommend.ranking.diversity).
        What `rules` pin
        is there even where no source proposes it, but not where it is left out, hidden or not allowed. A list that is
        drawn (see serve.recommend.ranking.exploration) is neither made diverse nor keeps places for what is new.
        """
        pinned = {} if rules is None else rules.pinned(excluded)
        hidden = None if rules is None else rules.hidden(user)
        if hidden is not None:
            allowed = self._recommender.allowed(hidden, allowed)
        if allowed is not None:
            pinned = {number: of for number, of in pinned.items() if allowed.mask[number]}
        also = np.array(sorted(pinned), np.int64)
        found = self._recommender.candidates(user, max(k, DEPTH), excluded, allowed, also if pinned else None)
        if len(found.items) < k:
            found = self._recommender.filled(found, user, k, excluded, allowed)
        count = len(found.items)
        new = np.flatnonzero(without_interactions(found.scores, count))[: round(k * self._new_share)]
        wanted = np.flatnonzero(np.isin(found.items, also))
        places = np.unique(np.concatenate([np.arange(min(MAX_SCORED, count)), new, wanted]))
        draw = explore.random if explore is not None and explore.policy == "thompson" else None
        ranked = self._ranked(user, found, places, now, draw)
        scored, names = len(places) if ranked.scores is not None else count, dict[int, list[str]]()
        scores = ranked.found.total if ranked.scores is None else ranked.scores.total[:scored]
        if rules is not None:
            items = ranked.found.items[:scored]
            factors, names = rules.factors(items, user)
            scores = scores + np.log(factors) if ranked.scores is None else scores * factors
            order = top(scores, items, scored)
            scores, ranked = scores[order], ranked.first(order)
        if explore is not None and explore.policy == "plackett_luce" and ranked.scores is not None:
            order, likely = explore.order(scores, k)
            ranked = replace(ranked.at(order), propensities=likely)
            count = len(order)
        elif diversity:
            pool = ranked.found.items[: min(POOL * k, MAX_SCORED, scored)]
            vectors = [index.vectors_of(pool) for index in self._spaces.values()]
            ranked = ranked.first(diversify(scores[: len(pool)], vectors, k, diversity))
        if ranked.propensities is None:
            if self._mix is not None and (own := self._mix.of(user)):
                pool = ranked.found.items[: min(POOL * k, MAX_SCORED, scored)]
                kinds = self._mix.category_of(pool)
                ranked = ranked.first(calibrate(scores[: len(pool)], kinds, own, k, self._mix.calibration))
            if self._tail is not None:
                ranked = ranked.first(spread(self._tail.mask(ranked.found), self._tail.share, k))
            ranked = ranked.first(spread(without_interactions(ranked.found.scores, count), self._new_share, k))
        if draw is not None and ranked.scores is not None:
            ranked = replace(ranked, propensities=np.full(count, np.nan, np.float32))
        if rules is None:
            return ranked.at(np.arange(min(k, count)))
        arranged = rules.arranged(ranked.found.items, k, names, pinned)
        if ranked.propensities is not None and (arranged != np.arange(len(arranged))).any():
            ranked = replace(ranked, propensities=np.full(count, np.nan, np.float32))  # moved after the draw
        return replace(ranked.at(arranged), rules=names)

    def rank(self, user: UserHistory, items: Items, now: float) -> Ranked:
        """Some items [m], distinct and in rising order, in the order that suits a shopper."""
        found = self._recommender.candidates(user, DEPTH, np.empty(0, np.int64), also=items)
        places = np.flatnonzero(np.isin(found.items, items))
        return self._ranked(user, found, places, now).at(np.arange(len(places)))

    def mixed(
        self, user: UserHistory, items: Items, relevance: Scored, personal: float, k: int, now: float
    ) -> Ranked | None:
        """The k best of items [m, distinct] that a query found, by relevance [m] and by how they suit a shopper.

        Relevance is in standard deviations over all items, so that it decides where the query tells the found ones
        apart; how they suit counts in standard deviations over those found, times `personal`. None without a scorer.
        """
        order = np.argsort(items)
        ranked = self.rank(user, items[order], now)
        if ranked.scores is None:
            return None
        numbers, expected = ranked.found.items, ranked.scores.total
        of = relevance[order][np.searchsorted(items[order], numbers)]
        query = of - of.mean()
        factor = personal / max(float(expected.std()), 1e-6)
        mix = RelevanceMix(query, -factor * float(expected.mean()), factor)
        total = query + mix.shift + factor * expected
        best = top(total, numbers, k)
        return replace(ranked, scores=replace(ranked.scores, total=total), mix=mix).at(best)

    def shown(self, ranked: Ranked) -> tuple[Scored, Scored] | None:
        """Of what a scorer ranked, all of it, its last hidden layer [m, hidden] and each head's probability [m, heads].

        The probabilities are at the items' places, for who learns from what came of them. None where it did not.
        """
        if self._scorer is None or ranked.features is None or ranked.rows is None or (ranked.rows < 0).any():
            return None
        return self._scorer.shown_at(ranked.features.at(ranked.rows), np.arange(len(ranked.rows), dtype=np.float32))

    def seen(self, ranked: Ranked) -> tuple[Scored, Scored] | None:
        """Of what a scorer ranked, all of it, the features [m, columns] and the scores [m]; None where it did not."""
        if ranked.scores is None or ranked.features is None or ranked.rows is None or (ranked.rows < 0).any():
            return None
        return ranked.features.values[ranked.rows], ranked.scores.total

    def probabilities(self, user: UserHistory, items: Items, places: Scored, now: float) -> Scored | None:
        """How likely each head's act is for items [m, distinct and rising] at their places [m] of a list, [m, heads].

        None without a scorer, or where it fails.
        """
        ranked = self.rank(user, items, now)
        if self._scorer is None or ranked.features is None or ranked.rows is None:
            return None
        order = np.searchsorted(items, ranked.found.items)
        _, of = self._scorer.shown_at(ranked.features.at(ranked.rows), places[order])
        found = np.empty_like(of)
        found[order] = of
        return found

    def explain(
        self, ranked: Ranked, user: UserHistory, id_of: Callable[[int], str], title_of: Callable[[str], str]
    ) -> list[Reasons | None]:
        """The reasons for what was ranked for a shopper; None for what a scorer did not see, or where it fails."""
        try:
            return self._explained(ranked, user, id_of, title_of)
        except Exception:  # whatever it is, the shopper gets an answer
            self.failures += 1
            FAILURES.inc()
            _log.exception("no reasons could be given")
            return [None] * len(ranked.found.items)

    def _explained(
        self, ranked: Ranked, user: UserHistory, id_of: Callable[[int], str], title_of: Callable[[str], str]
    ) -> list[Reasons | None]:
        found = ranked.found
        if self._scorer is None or ranked.features is None or ranked.rows is None:
            return list(reasons_of_blend(self._recommender.parts(found), len(found.items)))
        recent = user.last(HISTORY)
        acts = zip(recent.item.tolist(), recent.kind.tolist(), strict=True)
        history = [(id_of(item), KINDS[kind]) for item, kind in acts]
        seen = ranked.rows >= 0
        values = self._values_of(found.items[seen])
        explained = self._scorer.explain(ranked.features.at(ranked.rows[seen]), values)
        beside, factor = {}, 1.0
        if ranked.mix is not None:
            factor = ranked.mix.factor
            explained = explained.scaled(factor, ranked.mix.shift)
            beside["query"] = ranked.mix.query[seen].tolist()
        if ranked.scores is not None and ranked.scores.feedback is not None:
            beside["feedback"] = (factor * ranked.scores.feedback[seen]).tolist()
        told = iter(reasons_of(explained, history, title_of, beside))
        return [next(told) if one else None for one in seen.tolist()]

    def _values_of(self, items: Items) -> Values:
        if self._margins is None:
            return self._values
        return {**self._values, "purchase": self._values.get("purchase", 0.0) * self._margins(items)}

    def _ranked(
        self,
        user: UserHistory,
        found: Candidates,
        places: NDArray[np.int64],
        now: float,
        draw: np.random.Generator | None = None,
    ) -> Ranked:
        """The candidates at `places` in the scorer's order, and the others behind them.

        With `draw`, by a draw of what the probabilities may be.
        """
        rest = np.setdiff1d(np.arange(len(found.items)), places)
        as_they_are = Ranked(found.at(np.concatenate([places, rest])))
        if self._scorer is None or self._maker is None or not len(places):
            return as_they_are
        if is_late():
            mark_partial("scorer")
            return as_they_are
        try:
            with stage("rank"):
                order, scores, features = self._scored(user, found, places, now, draw)
        except Exception:  # whatever it is, the shopper gets an answer
            self.failures += 1
            FAILURES.inc()
            _log.exception("the scorer failed: the blended order stands")
            return as_they_are
        unseen = np.full(len(rest), -1)
        rows = np.concatenate([order, unseen])
        return Ranked(found.at(np.concatenate([places[order], rest])), scores.padded(rows), features, rows)

    def _scored(
        self,
        user: UserHistory,
        found: Candidates,
        places: NDArray[np.int64],
        now: float,
        draw: np.random.Generator | None,
    ) -> tuple[NDArray[np.int64], Scores, Features]:
        """The order of the candidates at `places` [m] among themselves, [m], their scores and features."""
        assert self._scorer is not None and self._maker is not None  # noqa: S101, PT018
        features = self._maker.make(user, found, RankingContext(now, hour_of(now)), places)
        online = self._online
        correction = None if online is None else lambda hidden: online.correction(hidden, now, draw)
        scores = self._scorer.score(features, self._values_of(found.items[places]), correction)
        return top(scores.total, found.items[places], len(places)), scores, features
