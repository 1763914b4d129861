"""Exact search: score every row.

The other indexes are measured against it and fall back to it, and it is the index of a small shop.

One matrix product scores all rows. On 966 rows of 1,280 values and one thread a query takes 0.14 ms where
faiss.IndexFlatIP takes 0.37 ms, with equal scores; so an index of type Flat is an ExactIndex and has no FAISS file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.item_mask import ItemMask
from index.ragged import range_indices
from index.space import NearestItems, Owners, Space, Vectors, normalize_queries
from index.top_k import TIE, top_k

MAX_SCORES = 1 << 24  # scores in memory at once: 64 MiB
MAX_GATHERED_SHARE = 0.25  # share of allowed rows below which scoring them one by one is faster than scoring all


@dataclass(frozen=True)
class ScanPlan:
    """What a search scores: m `items`, whose rows begin at `starts` [m] and end where the rows of the next item begin.

    `starts` are positions in `rows`. If `rows` is None, every row of the index is scored, `starts` are positions in
    the index, and `excluded` [m] are the items that must not be returned.
    """

    items: NDArray[np.int32]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None
    excluded: NDArray[np.bool_] | None = None


class ExactIndex:
    """Exact search over rows [n, dim] that belong to items; the score of an item is the best score of its rows.

    `labels` [n] are numbers that the caller assigns to the rows, for example which image of the item a row is.
    """

    factory = "Flat"

    def __init__(self, space: Space, vectors: Vectors, owners: Owners, labels: Owners, items: int) -> None:
        self.space, self.vectors, self.owners, self.labels, self.items = space, vectors, owners, labels, items
        starts = np.flatnonzero(np.diff(owners, prepend=-1))  # the first row of each item that has rows, [m]
        self._all_items = ScanPlan(owners[starts], starts)
        self._one_row_each = len(starts) == len(owners)
        self._pointer = faiss.swig_ptr(vectors)
        self._bounds = np.searchsorted(owners, np.arange(items + 1))  # item i has rows bounds[i] to bounds[i + 1] - 1

    def search(self, queries: Vectors, k: int, allowed: ItemMask | None = None) -> NearestItems:
        """Find the k best items for each of q queries [q, dim]; see VectorIndex."""
        queries = normalize_queries(queries, self.space.dim, k)
        results = NearestItems.empty(len(queries), k)
        plan = self._all_items if allowed is None else allowed.cached((self, "plan"), self._plan_scan)
        if not len(plan.items):
            return results
        rows, starts, excluded = plan.rows, plan.starts, plan.excluded
        step = max(1, MAX_SCORES // (len(self.vectors) if rows is None else len(rows)))
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            scores = block @ self.vectors.T if rows is None else self._score(rows, block)  # [step, n or rows]
            best = scores if self._one_row_each else np.maximum.reduceat(scores, starts, axis=1)  # [step, m]
            if excluded is not None:
                best[:, excluded] = -np.inf
            for query, item_scores in enumerate(best, start):
                order = top_k(item_scores, plan.items, k, TIE)
                results.fill(query, plan.items[order], item_scores[order])
        return results

    def score_all_items(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See VectorIndex."""
        best: NDArray[np.float32] = self.vectors @ query
        if not self._one_row_each:
            best = np.maximum.reduceat(best, self._all_items.starts)
        if len(best) == self.items:
            return best
        scores = np.full(self.items, -np.inf, np.float32)
        scores[self._all_items.items] = best
        return scores

    def score_items(self, query: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See VectorIndex."""
        starts, counts = self._bounds[items], self._bounds[items + 1] - self._bounds[items]
        has_rows = counts > 0
        if self._one_row_each and has_rows.all():
            first_scores: NDArray[np.float32] = self._score(starts, query[None])[0]
            return first_scores
        scores = np.full(len(items), -np.inf, np.float32)
        if has_rows.any():
            row_scores = self._score(range_indices(starts[has_rows], counts[has_rows]), query[None])[0]
            scores[has_rows] = np.maximum.reduceat(row_scores, np.cumsum(counts[has_rows]) - counts[has_rows])
        return scores

    def best_labels(self, query: NDArray[np.float32], items: Sequence[int]) -> list[int | None]:
        """See VectorIndex."""
        return [self._best_label(query, item) for item in items]

    def _best_label(self, query: NDArray[np.float32], item: int) -> int | None:
        start, end = int(self._bounds[item]), int(self._bounds[item + 1])
        if end - start < 2:
            return int(self.labels[start]) if end > start else None
        return int(self.labels[start + int((self.vectors[start:end] @ query).argmax())])

    def item_rows(self, item: int) -> tuple[NDArray[np.int32], Vectors]:
        """See VectorIndex."""
        rows = slice(self._bounds[item], self._bounds[item + 1])
        return self.labels[rows], self.vectors[rows]

    def first_vectors(self, items: NDArray[np.int64]) -> Vectors:
        """See VectorIndex."""
        has_rows = self._bounds[items + 1] > self._bounds[items]
        vectors = np.zeros((len(items), self.space.dim), np.float32)
        vectors[has_rows] = self.vectors[self._bounds[items[has_rows]]]
        return vectors

    def _plan_scan(self, allowed: ItemMask) -> ScanPlan:
        excluded = ~allowed.mask[self._all_items.items]
        items = self._all_items.items[~excluded]
        starts, counts = self._bounds[items], self._bounds[items + 1] - self._bounds[items]
        if counts.sum() > MAX_GATHERED_SHARE * len(self.owners):
            return ScanPlan(self._all_items.items, self._all_items.starts, excluded=excluded)
        return ScanPlan(items, np.cumsum(counts) - counts, range_indices(starts, counts))

    def _score(self, rows: NDArray[np.int64], queries: Vectors) -> NDArray[np.float32]:
        """Compute the cosines of n rows with queries, [q, n]; reads the rows in place, as copying them takes longer."""
        scores = np.empty((len(queries), len(rows)), np.float32)
        rows = np.ascontiguousarray(rows)
        rows_pointer: Any = faiss.swig_ptr(rows)
        for query_scores, query in zip(scores, queries, strict=True):
            faiss.fvec_inner_products_by_idx(
                faiss.swig_ptr(query_scores),
                faiss.swig_ptr(query),
                self._pointer,
                rows_pointer,
                self.space.dim,
                1,
                len(rows),
            )
        return scores
