"""Candidate generation: the candidates of all retrievers for one user, in the order of the linear score model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.item_mask import ItemMask
from index.top_k import top_k
from serve.core.metrics import CANDIDATES
from serve.core.request_context import stage
from serve.recommend.retrieval.linear_score_model import LinearScoreModel, without_interactions
from serve.recommend.retrieval.retriever import Items, Retriever, Scores
from serve.recommend.retrieval.retriever_registry import RETRIEVERS
from serve.recommend.retrieval.user_history import UserHistory

DEPTH = 200  # candidates that are retrieved, at least
MAX_OVERFETCH = 200  # excluded items up to which each retriever proposes that many more, instead of getting a mask


@dataclass(frozen=True)
class Candidates:
    """m candidates, best first.

    Attributes:
        items: Their item indices [m].
        total: Their scores [m] by the linear score model.
        scores: Their scores [m] by retriever; a retriever without a result for the user is missing.
        proposed: Whether each retriever proposed them, [m].
    """

    items: Items
    total: Scores
    scores: Mapping[str, Scores]
    proposed: Mapping[str, NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, rows: NDArray[np.int64] | slice) -> "Candidates":
        """Return the candidates at some rows, in that order."""
        return Candidates(
            self.items[rows],
            self.total[rows],
            {retriever: scores[rows] for retriever, scores in self.scores.items()},
            {retriever: proposed[rows] for retriever, proposed in self.proposed.items()},
        )


class CandidateGenerator:
    """Retrievers over the items 0 to `items` - 1, and the score model that orders their candidates; without state.

    `deleted` items are never returned.
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

    def recommend(self, user: UserHistory, k: int, excluded: Items, allowed: ItemMask | None = None) -> Candidates:
        """Return the k best allowed items for a user without the excluded ones; k whenever there are k.

        If the retrievers propose too few, any allowed items follow, by item index.
        """
        candidates = self.generate(user, max(k, DEPTH), excluded, allowed)
        if len(candidates) < k:
            candidates = self.fill(candidates, user, k, excluded, allowed)
        return candidates.take(slice(k))

    def generate(
        self,
        user: UserHistory,
        depth: int,
        excluded: Items,
        allowed: ItemMask | None = None,
        extra: Items | None = None,
    ) -> Candidates:
        """Return what the retrievers propose, each `depth` candidates or its share of that, by total score.

        Args:
            user: The history.
            depth: How many candidates a retriever with a share of 1 proposes.
            excluded: Items that are not returned.
            allowed: The items that may be returned; None for all.
            extra: Items that are returned and scored in addition, whether or not a retriever proposes them.
        """
        with stage("candidates"):
            return self._generate(user, depth, excluded, allowed, extra)

    def _generate(
        self, user: UserHistory, depth: int, excluded: Items, allowed: ItemMask | None, extra: Items | None
    ) -> Candidates:
        retrieved = {name: retriever.retrieve(user) for name, retriever in self._retrievers.items()}
        results = {name: result for name, result in retrieved.items() if result is not None}
        overfetch = len(excluded)
        if overfetch > MAX_OVERFETCH:
            allowed, overfetch = ItemMask(self._mask(excluded, allowed)), 0
        proposed = {
            name: result.best(math.ceil(depth * _depth_share(name)) + overfetch, allowed)
            for name, result in results.items()
        }
        for name, best in proposed.items():
            CANDIDATES.labels(name).inc(len(best))
        items = np.unique(np.concatenate([*proposed.values(), np.empty(0, np.int64)]))
        items = items[~np.isin(items, excluded)]
        if extra is not None:
            items = np.union1d(items, extra)
        scores = {name: result.scores(items) for name, result in results.items()}
        total = self.score_model.total(scores, len(items))
        order = top_k(total, items, len(items))
        return Candidates(
            items[order],
            total[order],
            {name: values[order] for name, values in scores.items()},
            {name: _is_among(items, best)[order] for name, best in proposed.items()},
        )

    def without(self, hidden: NDArray[np.bool_], allowed: ItemMask | None) -> ItemMask:
        """Return the allowed items that are not `hidden` [items]."""
        return ItemMask(self._mask(np.flatnonzero(hidden), allowed))

    def score_parts(self, candidates: Candidates) -> dict[str, list[float]]:
        """Return what each retriever adds to the total of each candidate, [m]; `new` is for items without events."""
        parts = {
            retriever: self.score_model.part(retriever, scores).astype(float).tolist()
            for retriever, scores in candidates.scores.items()
        }
        new = self.score_model.new * without_interactions(candidates.scores, len(candidates))
        return {**parts, "new": new.tolist()}

    def fill(
        self, candidates: Candidates, user: UserHistory, k: int, excluded: Items, allowed: ItemMask | None
    ) -> Candidates:
        """Return the candidates and, behind them, other allowed items by item index, k in all."""
        mask = self._mask(excluded, allowed)
        mask[candidates.items] = False
        rest = np.flatnonzero(mask)[: k - len(candidates)]
        scores = {name: self._retrievers[name].retrieve(user).scores(rest) for name in candidates.scores}  # type: ignore[union-attr]
        total = self.score_model.total(scores, len(rest))
        not_proposed = np.zeros(len(rest), np.bool_)
        return Candidates(
            np.concatenate([candidates.items, rest]),
            np.concatenate([candidates.total, total]),
            {name: np.concatenate([values, scores[name]]) for name, values in candidates.scores.items()},
            {name: np.concatenate([proposed, not_proposed]) for name, proposed in candidates.proposed.items()},
        )

    def _mask(self, excluded: Items, allowed: ItemMask | None) -> NDArray[np.bool_]:
        """Return the items that may be returned, [items]."""
        mask = np.ones(self._items, np.bool_) if allowed is None else allowed.mask.copy()
        mask[self._deleted] = False
        mask[excluded] = False
        return mask


def _depth_share(name: str) -> float:
    spec = RETRIEVERS.get(name)
    return 1.0 if spec is None else spec.depth_share


def _is_among(items: Items, some: Items) -> NDArray[np.bool_]:
    """Return which of m items in rising order, [m], are among some others."""
    among = np.zeros(len(items) + 1, np.bool_)
    at = items.searchsorted(some)
    among[at] = np.append(items, -1)[at] == some
    return among[:-1]
