"""Exact search: every row is scored. The oracle of the other indexes, and the fast way where few items are allowed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.space import Allowed, Hits, Owners, Space, Vectors, check_queries

BLOCK = 1 << 24  # scores held at once: 64 MiB
TIE = 1e-6  # scores closer than float32 arithmetic can tell apart are ties, and go by item number


@dataclass(frozen=True)
class ItemScores:
    """`scores` [m] and the best `rows` [m] of m items; -inf and -1 for an item that has no row in the space."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


class ExactIndex:
    """Exact search over rows [n, dim] that belong to items; an item scores as its best row does.

    `labels` [n] are numbers of the caller's own, one for each row: which image of the item it is, say.
    """

    def __init__(self, space: Space, vectors: Vectors, owners: Owners, labels: Owners, items: int) -> None:
        self.space, self.vectors, self.owners, self.labels, self.items = space, vectors, owners, labels, items

    def search(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> Hits:
        """The k best items for each of q queries [q, dim], ties by item number; `allowed` [items] limits them."""
        return exact_search(self.vectors, self.owners, check_queries(queries, self.space.dim, k), k, allowed)

    def scores_of(self, query: NDArray[np.float32], items: NDArray[np.int64]) -> ItemScores:
        """How the unit `query` [dim] scores m distinct items, given in rising order, found by a search or not."""
        starts, ends = np.searchsorted(self.owners, items, "left"), np.searchsorted(self.owners, items, "right")
        counts = ends - starts
        rows = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(
            counts.sum()
        )  # every row of every item
        best, scores = best_rows(self.vectors[rows] @ query, self.owners[rows])
        known = counts > 0
        all_scores = np.full(len(items), -np.inf, np.float32)
        all_rows = np.full(len(items), -1, np.int64)
        all_scores[known], all_rows[known] = scores, rows[best]
        return ItemScores(all_scores, all_rows)

    def vector_of(self, item: int) -> NDArray[np.float32] | None:
        """The item's first row [dim] (its main image), or None where it has none in this space."""
        row = int(np.searchsorted(self.owners, item))
        return np.array(self.vectors[row]) if row < len(self.owners) and self.owners[row] == item else None


def exact_search(vectors: Vectors, owners: Owners, queries: Vectors, k: int, allowed: Allowed | None = None) -> Hits:
    """Exact search of unit queries [q, dim] in unit rows [n, dim]; memory stays bounded however many of either."""
    rows, chosen = None, None if allowed is None else allowed[owners]
    # Where most rows are allowed, scoring all of them is cheaper than copying the allowed ones together.
    if chosen is not None and chosen.sum() < len(owners) // 4:
        rows, chosen = np.flatnonzero(chosen), None
        vectors, owners = vectors[rows], owners[rows]
    hits = empty_hits(len(queries), k)
    step = max(1, BLOCK // max(1, len(owners)))
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ vectors.T  # [step, n]
        if chosen is not None:
            scores[:, ~chosen] = -np.inf
        for query, row_scores in enumerate(scores, start):
            found, best = best_rows(row_scores, owners)
            keep = np.isfinite(best)
            write_top(hits, query, owners[found[keep]], best[keep], found[keep], k)
    if rows is not None:
        hits.rows[hits.rows >= 0] = rows[hits.rows[hits.rows >= 0]]
    return hits


def best_rows(scores: NDArray[np.float32], owners: Owners) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For each item among `owners` [n] (never decreasing): the row that scores best, and its score."""
    if not len(owners):
        return np.empty(0, np.int64), np.empty(0, np.float32)
    starts = np.flatnonzero(np.diff(owners, prepend=owners[0] - 1))
    if len(starts) == len(owners):
        return starts, scores
    best = np.maximum.reduceat(scores, starts)
    is_best = scores == np.repeat(best, np.diff(starts, append=len(owners)))
    rows = np.flatnonzero(is_best)
    first = np.searchsorted(rows, starts)
    return rows[first], best


def empty_hits(queries: int, k: int) -> Hits:
    """Hits that hold nothing yet."""
    shape = (queries, k)
    return Hits(
        np.full(shape, -1, np.int64),
        np.full(shape, -np.inf, np.float32),
        np.zeros(queries, np.int64),
        np.full(shape, -1, np.int64),
    )


def write_top(
    hits: Hits, query: int, ids: NDArray[np.int32], scores: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> None:
    """Write the k best of distinct `ids` into row `query` of `hits`: by score, ties by item number."""
    rounded = np.rint(scores / TIE)
    if len(ids) > k:
        threshold = np.partition(rounded, len(ids) - k)[len(ids) - k]
        near = rounded >= threshold  # more than k where the last place is tied
        ids, scores, rows, rounded = ids[near], scores[near], rows[near], rounded[near]
    order = np.lexsort((ids, -rounded))[:k]
    count = len(order)
    hits.ids[query, :count], hits.scores[query, :count], hits.rows[query, :count] = (
        ids[order],
        scores[order],
        rows[order],
    )
    hits.counts[query] = count
