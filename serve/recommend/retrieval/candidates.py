"""The recommender: candidates of all sources for one shopper, blended into one order."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.exact import top
from index.selection import Selection
from serve.core.metrics import CANDIDATES
from serve.core.request_context import stage
from serve.recommend.retrieval.retrievers import Items, Retriever, Scores
from serve.recommend.retrieval.score_blend import LinearScoreModel, without_interactions
from serve.recommend.retrieval.user_history import UserHistory

DEPTH = 200  # candidates that are looked for, at the least
# How many of these each source proposes: those that order well by themselves the most; neighbours by content cost most.
SHARES = {"tower": 1.0, "covisitation": 1.0, "popularity": 0.5, "arrivals": 0.25, "content": 0.25, "knowledge": 0.25}
FEW = 200  # items left out up to which each source proposes that many more instead of being told


@dataclass(frozen=True)
class Candidates:
    """m items, best first: their blended score, their score [m] by source, and which source proposed which, [m].

    A source that has nothing to go by for this shopper is not there.
    """

    items: Items
    total: Scores
    scores: Mapping[str, Scores]
    proposed: Mapping[str, NDArray[np.bool_]]

    def first(self, k: int) -> "Candidates":
        """The k best."""
        return self.at(slice(k))

    def at(self, places: NDArray[np.int64] | slice) -> "Candidates":
        """Those at some places, in the order given."""
        return Candidates(
            self.items[places],
            self.total[places],
            {retriever: scores[places] for retriever, scores in self.scores.items()},
            {retriever: which[places] for retriever, which in self.proposed.items()},
        )


class CandidateGenerator:
    """Sources over the items 0 to `items` - 1 and the blend that orders what they propose; without state.

    `deleted` are items that never come out.
    """

    def __init__(
        self,
        retrievers: Mapping[str, Retriever],
        score_model: LinearScoreModel,
        items: int,
        deleted: Items | None = None,
    ) -> None:
        self._retrievers, self.score_model, self._items = retrievers, score_model, items
        self._deleted = np.empty(0, np.int64) if deleted is None else deleted

    def recommend(self, user: UserHistory, k: int, excluded: Items, allowed: Selection | None = None) -> Candidates:
        """The k best items for a shopper without those left out, of the allowed ones; k whenever there are k.

        Where the sources have too few, any allowed items follow, by their number.
        """
        found = self.candidates(user, max(k, DEPTH), excluded, allowed)
        if len(found.items) < k:
            found = self.filled(found, user, k, excluded, allowed)
        return found.first(k)

    def candidates(
        self,
        user: UserHistory,
        depth: int,
        excluded: Items,
        allowed: Selection | None = None,
        also: Items | None = None,
    ) -> Candidates:
        """What the sources propose, `depth` or a share of it each, blended; without the items left out.

        `also` are items that are scored with them, whether or not any source proposes them.
        """
        with stage("candidates"):
            return self._candidates(user, depth, excluded, allowed, also)

    def _candidates(
        self, user: UserHistory, depth: int, excluded: Items, allowed: Selection | None, also: Items | None
    ) -> Candidates:
        answers = {name: answer for name, retriever in self._retrievers.items() if (answer := retriever.ask(user))}
        spare = len(excluded)
        if spare > FEW:
            allowed, spare = Selection(self._mask(excluded, allowed)), 0
        proposed = {
            name: answer.propose(math.ceil(depth * SHARES.get(name, 1.0)) + spare, allowed)
            for name, answer in answers.items()
        }
        for name, of in proposed.items():
            CANDIDATES.labels(name).inc(len(of))
        items = np.unique(np.concatenate([*proposed.values(), np.empty(0, np.int64)]))
        items = items[~np.isin(items, excluded)]
        if also is not None:
            items = np.union1d(items, also)
        scores = {name: answer.scores(items) for name, answer in answers.items()}
        total = self.score_model.total(scores, len(items))
        order = top(total, items, len(items))
        return Candidates(
            items[order],
            total[order],
            {name: of[order] for name, of in scores.items()},
            {name: _among(items, of)[order] for name, of in proposed.items()},
        )

    def allowed(self, hidden: NDArray[np.bool_], allowed: Selection | None) -> Selection:
        """The allowed items that are not hidden, [items]."""
        return Selection(self._mask(np.flatnonzero(hidden), allowed))

    def parts(self, found: Candidates) -> dict[str, list[float]]:
        """What each source adds to the blended score of each candidate, [m]; `new` is for what nobody had."""
        parts = {
            retriever: self.score_model.part(retriever, of).astype(float).tolist()
            for retriever, of in found.scores.items()
        }
        new = self.score_model.new * without_interactions(found.scores, len(found.items))
        return {**parts, "new": new.tolist()}

    def filled(
        self, found: Candidates, user: UserHistory, k: int, excluded: Items, allowed: Selection | None
    ) -> Candidates:
        """What was found and, behind it, any other allowed items by their number, k in all."""
        mask = self._mask(excluded, allowed)
        mask[found.items] = False
        rest = np.flatnonzero(mask)[: k - len(found.items)]
        scores = {name: self._retrievers[name].ask(user).scores(rest) for name in found.scores}  # type: ignore[union-attr]
        total = self.score_model.total(scores, len(rest))
        return Candidates(
            np.concatenate([found.items, rest]),
            np.concatenate([found.total, total]),
            {name: np.concatenate([of, scores[name]]) for name, of in found.scores.items()},
            {name: np.concatenate([of, np.zeros(len(rest), np.bool_)]) for name, of in found.proposed.items()},
        )

    def _mask(self, excluded: Items, allowed: Selection | None) -> NDArray[np.bool_]:
        """The items that may come out, [items]."""
        mask = np.ones(self._items, np.bool_) if allowed is None else allowed.mask.copy()
        mask[self._deleted] = False
        mask[excluded] = False
        return mask


def _among(items: Items, some: Items) -> NDArray[np.bool_]:
    """Which of m items in rising order, [m], are among some others."""
    found = np.zeros(len(items) + 1, np.bool_)
    at = items.searchsorted(some)
    found[at] = np.append(items, -1)[at] == some
    return found[:-1]
