"""The ranker: the pipeline of one request, candidates of all sources to a list in the scorer's order.

Without a scorer the blended order stands. It also stands where the scorer fails for a request: that is logged and
counted, and the answer says by what it was ranked.

What nobody had yet cannot show its worth unless somebody sees it. A share of the places is kept for such items, those
that suit the shopper best: one in ten by default, the tenth, the twentieth, and so on.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour.interactions import KINDS
from index.contract import VectorIndex
from index.exact import top
from index.selection import Selection
from serve.rank.diversity import diversify
from serve.rank.explain import Reasons, reasons_of, reasons_of_blend
from serve.rank.features import HISTORY, Context, FeatureMaker, Features, hour_of
from serve.rank.scorer import Scorer, Scores
from serve.recommend.blend import nobody_had
from serve.recommend.recommender import DEPTH, Candidates, Recommender
from serve.recommend.shopper import Shopper
from serve.recommend.sources import Items

POOL = 5  # times as many as are asked for, of which a diverse list is made
MOST_SCORED = 200  # candidates that the scorer puts in order, the best of the blend
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranked:
    """k candidates in their final order; `scores` and `features` are of the first of them, where a scorer ranked."""

    found: Candidates
    scores: Scores | None = None
    features: Features | None = None

    def at(self, places: NDArray[np.int64]) -> "Ranked":
        """Those at some places, in the order given; those without a score behind the others."""
        if self.scores is None or self.features is None:
            return Ranked(self.found.at(places))
        scored = places < len(self.scores.total)
        first = places[scored]
        found = self.found.at(np.concatenate([first, places[~scored]]))
        return Ranked(found, self.scores.at(first), self.features.at(first))


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


class Ranker:
    """Recommends with a recommender and, where there is one, a scorer.

    `values` say what each head is worth, `new_share` is the share of places for items that nobody had yet, and `spaces`
    are those in which items are alike or not.
    """

    def __init__(
        self,
        recommender: Recommender,
        maker: FeatureMaker | None,
        scorer: Scorer | None,
        values: Mapping[str, float],
        new_share: float = 0.0,
        spaces: Mapping[str, VectorIndex] | None = None,
        has_times: bool = True,
    ) -> None:
        self._recommender, self._maker, self._scorer, self._values = recommender, maker, scorer, values
        self._new_share, self._spaces, self._has_times = new_share, spaces or {}, has_times
        self.failures = 0

    def recommend(
        self,
        shopper: Shopper,
        k: int,
        left_out: Items,
        now: float,
        allowed: Selection | None = None,
        diversity: float = 0.0,
    ) -> Ranked:
        """The k best items for a shopper at a moment; k whenever there are k (see Recommender.recommend).

        `diversity`, 0 to 1, is how much it counts that they are not alike (see serve.rank.diversity).
        """
        found = self._recommender.candidates(shopper, max(k, DEPTH), left_out, allowed)
        if len(found.items) < k:
            found = self._recommender.filled(found, k, left_out, allowed)
        new = np.flatnonzero(nobody_had(found.scores, len(found.items)))
        places = np.union1d(np.arange(min(MOST_SCORED, len(found.items))), new[: round(k * self._new_share)])
        ranked = self._ranked(shopper, found, places, now)
        if diversity:
            scores = ranked.found.total if ranked.scores is None else ranked.scores.total
            pool = ranked.found.items[: min(POOL * k, MOST_SCORED, len(scores))]
            vectors = [index.vectors_of(pool) for index in self._spaces.values()]
            first = diversify(scores[: len(pool)], vectors, k, diversity)
            ranked = ranked.at(np.concatenate([first, np.setdiff1d(np.arange(len(found.items)), first)]))
        return ranked.at(spread(nobody_had(ranked.found.scores, len(found.items)), self._new_share, k))

    def rank(self, shopper: Shopper, items: Items, now: float) -> Ranked:
        """Some items [m], distinct and in rising order, in the order that suits a shopper."""
        found = self._recommender.candidates(shopper, DEPTH, np.empty(0, np.int64), also=items)
        places = np.flatnonzero(np.isin(found.items, items))
        return self._ranked(shopper, found, places, now).at(np.arange(len(places)))

    def explain(
        self, ranked: Ranked, shopper: Shopper, id_of: Callable[[int], str], title_of: Callable[[str], str]
    ) -> list[Reasons]:
        """The reasons for what was ranked for a shopper: of those with a score, or, without a scorer, of all."""
        if self._scorer is None or ranked.features is None:
            found = ranked.found
            return reasons_of_blend(self._recommender.parts(found), len(found.items))
        recent = shopper.last(HISTORY)
        acts = zip(recent.item.tolist(), recent.kind.tolist(), strict=True)
        history = [(id_of(item), KINDS[kind]) for item, kind in acts]
        return reasons_of(self._scorer.explain(ranked.features, self._values), history, title_of)

    def _ranked(self, shopper: Shopper, found: Candidates, places: NDArray[np.int64], now: float) -> Ranked:
        """The candidates at `places` in the scorer's order, and the others behind them."""
        rest = np.setdiff1d(np.arange(len(found.items)), places)
        as_they_are = Ranked(found.at(np.concatenate([places, rest])))
        if self._scorer is None or self._maker is None or not len(places):
            return as_they_are
        try:
            context = Context(now, hour_of(now) if self._has_times else None)
            features = self._maker.make(shopper, found, context, places)
            scores = self._scorer.score(features, self._values)
            order = top(scores.total, found.items[places], len(places))
        except Exception:  # whatever it is, the shopper gets an answer
            self.failures += 1
            _log.exception("the scorer failed: the blended order stands")
            return as_they_are
        return Ranked(found.at(np.concatenate([places[order], rest])), scores.at(order), features.at(order))
