"""Exact search: every row is scored. The oracle of the other indexes, their way out, and the index of a small shop.

One matrix product scores all rows: on 966 rows of 1,280 values and one thread it takes 0.14 ms for a query where
faiss.IndexFlatIP takes 0.37, with the same scores, so that a Flat index here is this and no FAISS file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.selection import Selection
from index.space import Hits, Owners, Space, Vectors, check_queries

BLOCK = 1 << 24  # scores held at once: 64 MiB
TIE = 1e-6  # neighbours closer than float32 arithmetic can tell apart are ties, and go by item number
FEW = 256  # scores that are sorted faster than the best of them are picked
LOWEST = np.finfo(np.float32).min
NARROW = 0.25  # share of allowed rows below which scoring them one by one is cheaper than scoring all


@dataclass(frozen=True)
class Scope:
    """What a search looks at: m `items`, whose rows begin at `starts` and end where the next one's begin.

    These are places in `rows`, or rows themselves where it is None and every row is scored; `excluded` [m] are then the
    items that must not come out.
    """

    items: NDArray[np.int32]
    starts: NDArray[np.int64]
    rows: NDArray[np.int64] | None = None
    excluded: NDArray[np.bool_] | None = None


class ExactIndex:
    """Exact search over rows [n, dim] that belong to items; an item scores as its best row does.

    `labels` [n] are numbers of the caller's own, one for each row: which image of the item it is, say.
    """

    factory = "Flat"

    def __init__(self, space: Space, vectors: Vectors, owners: Owners, labels: Owners, items: int) -> None:
        self.space, self.vectors, self.owners, self.labels, self.items = space, vectors, owners, labels, items
        starts = np.flatnonzero(np.diff(owners, prepend=-1))  # the first row of each item that has any, [m]
        self._all = Scope(owners[starts], starts)
        self._one_row_each = len(starts) == len(owners)
        self._pointer = faiss.swig_ptr(vectors)
        self._bounds = np.searchsorted(owners, np.arange(items + 1))  # item i has rows bounds[i] to bounds[i + 1] - 1

    def search(self, queries: Vectors, k: int, allowed: Selection | None = None) -> Hits:
        """The k best items for each of q queries [q, dim], ties by item number; `allowed` limits them."""
        queries = check_queries(queries, self.space.dim, k)
        hits = empty_hits(len(queries), k)
        scope = self._all if allowed is None else allowed.made_for((self, "scope"), self._scope)
        if not len(scope.items):
            return hits
        rows, starts, excluded = scope.rows, scope.starts, scope.excluded
        step = max(1, BLOCK // (len(self.vectors) if rows is None else len(rows)))
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            scores = block @ self.vectors.T if rows is None else self._score(rows, block)  # [step, n or rows]
            best = scores if self._one_row_each else np.maximum.reduceat(scores, starts, axis=1)  # [step, m]
            if excluded is not None:
                best[:, excluded] = -np.inf
            for query, of_items in enumerate(best, start):
                found = top(of_items, scope.items, k)
                record(hits, query, scope.items[found], of_items[found])
        return hits

    def scores_of_all(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See VectorIndex."""
        of_rows: NDArray[np.float32] = self.vectors @ query
        best: NDArray[np.float32] = of_rows if self._one_row_each else np.maximum.reduceat(of_rows, self._all.starts)
        if len(best) == self.items:
            return best
        scores = np.full(self.items, -np.inf, np.float32)
        scores[self._all.items] = best
        return scores

    def scores_of(self, query: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See VectorIndex."""
        starts, counts = self._bounds[items], self._bounds[items + 1] - self._bounds[items]
        known = counts > 0
        if self._one_row_each and known.all():
            of_first: NDArray[np.float32] = self._score(starts, query[None])[0]
            return of_first
        scores = np.full(len(items), -np.inf, np.float32)
        if known.any():
            of_rows = self._score(_ranges(starts[known], counts[known]), query[None])[0]
            scores[known] = np.maximum.reduceat(of_rows, np.cumsum(counts[known]) - counts[known])
        return scores

    def best_labels(self, query: NDArray[np.float32], items: Sequence[int]) -> list[int | None]:
        """See VectorIndex."""
        return [self._best_label(query, item) for item in items]

    def _best_label(self, query: NDArray[np.float32], item: int) -> int | None:
        start, end = int(self._bounds[item]), int(self._bounds[item + 1])
        if end - start < 2:
            return int(self.labels[start]) if end > start else None
        return int(self.labels[start + int((self.vectors[start:end] @ query).argmax())])

    def rows_of(self, item: int) -> tuple[NDArray[np.int32], Vectors]:
        """See VectorIndex."""
        rows = slice(self._bounds[item], self._bounds[item + 1])
        return self.labels[rows], self.vectors[rows]

    def vectors_of(self, items: NDArray[np.int64]) -> Vectors:
        """See VectorIndex."""
        known = self._bounds[items + 1] > self._bounds[items]
        vectors = np.zeros((len(items), self.space.dim), np.float32)
        vectors[known] = self.vectors[self._bounds[items[known]]]
        return vectors

    def _scope(self, allowed: Selection) -> Scope:
        excluded = ~allowed.mask[self._all.items]
        places = np.flatnonzero(~excluded)
        items = self._all.items[places]
        starts, counts = self._bounds[items], self._bounds[items + 1] - self._bounds[items]
        if counts.sum() > NARROW * len(self.owners):
            return Scope(self._all.items, self._all.starts, excluded=excluded)
        return Scope(items, np.cumsum(counts) - counts, _ranges(starts, counts))

    def _score(self, rows: NDArray[np.int64], queries: Vectors) -> NDArray[np.float32]:
        """Cosines of some rows [n] with queries, [q, n]; read where they lie, as copying them takes longer."""
        scores = np.empty((len(queries), len(rows)), np.float32)
        rows = np.ascontiguousarray(rows)
        at = faiss.swig_ptr(rows)
        for of_query, query in zip(scores, queries, strict=True):
            to, of = faiss.swig_ptr(of_query), faiss.swig_ptr(query)
            faiss.fvec_inner_products_by_idx(to, of, self._pointer, at, self.space.dim, 1, len(rows))
        return scores


def top(scores: NDArray[np.float32], items: NDArray[np.integer[Any]], k: int) -> NDArray[np.int64]:
    """Where the k best of m scores are, best first, ties by item number; never at -inf."""
    if len(scores) > max(4 * k, FEW):
        threshold = np.partition(scores, -k)[-k] - TIE
        near = np.flatnonzero(scores >= max(threshold, LOWEST))  # more than k where the last place is tied
        near = near[(-scores[near]).argsort(kind="stable")]
    else:
        near = (-scores).argsort(kind="stable")
    falling = scores[near]
    if len(near) and falling[-1] == -np.inf:
        near = near[: np.searchsorted(-falling, np.inf)]
        falling = scores[near]
    # Gaps, not rounding: the scores of equal rows may differ in the last bit, and so fall on both sides of any limit.
    gaps = falling[:-1] - falling[1:]
    if len(gaps) and gaps.min() <= TIE:
        rank = np.zeros(len(near), np.int64)
        (gaps > TIE).cumsum(out=rank[1:])
        near = near[np.lexsort((items[near], rank))]
    order: NDArray[np.int64] = near[:k]
    return order


def best_of_items(
    scores: NDArray[np.float32], items: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The best score of each item among rows [n] in any order, and these items in rising order."""
    order = items.argsort(kind="stable")
    items = items[order]
    first = np.ones(len(items), np.bool_)
    first[1:] = items[1:] != items[:-1]
    starts = np.flatnonzero(first)
    return np.maximum.reduceat(scores[order], starts) if len(starts) else scores, items[starts]


def empty_hits(queries: int, k: int) -> Hits:
    """Hits that hold nothing yet."""
    shape = (queries, k)
    return Hits(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32), np.zeros(queries, np.int64))


def record(hits: Hits, query: int, items: NDArray[np.integer[Any]], scores: NDArray[np.float32]) -> None:
    """Write what was found, best first, into row `query` of `hits`."""
    count = len(items)
    hits.ids[query, :count], hits.scores[query, :count], hits.counts[query] = items, scores, count


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers start, start + 1, ... of each range, one range after the other."""
    numbers: NDArray[np.int64] = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return numbers
