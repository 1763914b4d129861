"""Results that several retrievers share: nearest neighbours, a few scored items, scores of all items."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from index.item_mask import ItemMask
from index.protocol import VectorIndex
from index.top_k import top_k
from serve.recommend.retrieval.retriever import ItemIndexMapping, Items, RetrieverResult, Scores
from serve.recommend.retrieval.user_history import UserHistory
from serve.search.fusion import fuse


class NearestResult:
    """The neighbours of a query in each of some spaces.

    Scores are cosines in one space, or standard deviations above a random item if `samples` are given.
    """

    def __init__(
        self,
        spaces: Mapping[str, VectorIndex],
        queries: Mapping[str, NDArray[np.float32]],
        samples: Mapping[str, NDArray[np.float32]] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._spaces, self._queries, self._samples, self._weights = spaces, queries, samples, weights or {}

    def scores(self, items: Items) -> Scores:
        scores = {space: self._spaces[space].score_items(query, items) for space, query in self._queries.items()}
        if self._samples is None:
            (total,) = scores.values()
        else:
            backgrounds = {space: self._samples[space] @ query for space, query in self._queries.items()}
            total = fuse(scores, backgrounds, self._weights)
        return np.where(total == -np.inf, 0, total).astype(np.float32)  # an item without a vector counts as average

    def best(self, depth: int, allowed: ItemMask | None) -> Items:
        neighbours = []
        for space, query in self._queries.items():
            hits = self._spaces[space].search(query[None], depth, allowed)
            neighbours.append(hits.items[0, : hits.counts[0]])
        return neighbours[0] if len(neighbours) == 1 else np.unique(np.concatenate(neighbours))


class SparseResult:
    """A few items [m] in rising order and their scores [m]; all other items score 0."""

    def __init__(self, items: Items, scores: Scores) -> None:
        self._items, self._scores = items, scores

    def scores(self, items: Items) -> Scores:
        at = self._items.searchsorted(items).clip(max=len(self._items) - 1)
        return np.where(self._items[at] == items, self._scores[at], 0).astype(np.float32)

    def best(self, depth: int, allowed: ItemMask | None) -> Items:
        items, scores = self._items, self._scores
        if allowed is not None:
            passed = allowed.mask[items]
            items, scores = items[passed], scores[passed]
        return items[top_k(scores, items, depth)]


class StaticRetriever:
    """Returns the same scores for every user, as popularity does. Items of score 0 are not proposed.

    `scores` [items] and `order`, the items of another score, best first (see `order_by_score`), have the item indices
    of the release.
    """

    def __init__(self, scores: Scores, order: Items, index_mapping: ItemIndexMapping | None = None) -> None:
        self._result = _StaticResult(scores, order, index_mapping)

    def retrieve(self, user: UserHistory) -> RetrieverResult | None:
        return self._result


class _StaticResult:
    """A score of every item, and the items that have one in order; with the item indices of the release."""

    def __init__(self, scores: Scores, order: Items, index_mapping: ItemIndexMapping | None) -> None:
        self._scores, self._order, self._index_mapping = scores, order, index_mapping

    def scores(self, items: Items) -> Scores:
        if self._index_mapping is None:
            return self._scores[items]
        original = self._index_mapping.to_release[items]
        return np.where(original >= 0, self._scores[original], 0).astype(np.float32)

    def best(self, depth: int, allowed: ItemMask | None) -> Items:
        parts: list[Items] = []
        missing, start, step = depth, 0, depth
        while missing > 0 and start < len(self._order):
            items = self._order[start : start + step]
            start, step = start + step, 4 * step
            if self._index_mapping is not None:
                items = self._index_mapping.to_snapshot[items]
                items = items[items >= 0]
            if allowed is not None:
                items = items[allowed.mask[items]]
            parts.append(items[:missing])
            missing -= len(parts[-1])
        return np.concatenate(parts) if parts else np.empty(0, np.int64)


def order_by_score(scores: Scores) -> Items:
    """Return the items whose score [items] is not 0, best first, ties by item index."""
    return np.argsort(-scores, kind="stable")[: np.count_nonzero(scores)]
