"""Measure recall and time of an index against exact search, with queries that may be rows of the index."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.exact_index import ExactIndex
from index.faiss_index import FaissIndex
from index.item_mask import ItemMask
from index.space import Space, Vectors
from index.threads import one_thread
from index.top_k import TIE

K = 10


@dataclass(frozen=True)
class QuerySet:
    """Queries [q, dim]; if they are rows of the index, `own` [q] is the row of each, which does not count as a result.

    Attributes:
        vectors: The queries, [q, dim].
        own: The row of each query, [q]; None if the queries are not rows.
    """

    vectors: Vectors
    own: NDArray[np.int64] | None

    @classmethod
    def from_rows(cls, vectors: Vectors, count: int) -> "QuerySet":
        """Draw at most `count` rows as queries."""
        own = np.sort(np.random.default_rng(0).choice(len(vectors), min(count, len(vectors)), replace=False))
        return cls(np.ascontiguousarray(vectors[own]), own)

    def half(self, first: bool) -> "QuerySet":
        """Return the queries at even positions (the first half) or at odd positions."""
        part = slice(None if first else 1, None, 2)
        return QuerySet(self.vectors[part], None if self.own is None else self.own[part])


def exact_over_rows(vectors: Vectors) -> ExactIndex:
    """Return an exact index in which each row is an item."""
    items = np.arange(len(vectors), dtype=np.int32)
    return ExactIndex(_row_space(vectors), vectors, items, items, len(vectors))


def faiss_over_rows(vectors: Vectors, factory: str, raw: Any) -> FaissIndex:
    """Return a FAISS index in which each row is an item; its efforts are empty."""
    items = np.arange(len(vectors), dtype=np.int32)
    return FaissIndex(_row_space(vectors), factory, raw, vectors, items, items, len(vectors), ())


def required_scores(exact: ExactIndex, queries: QuerySet, allowed: ItemMask | None = None) -> NDArray[np.float32]:
    """Return the score that a right result of each query has at least, [q].

    Results are compared by score, as any of the rows that tie for the last position is right.
    """
    results = exact.search(queries.vectors, K + 1, allowed)
    required = np.full(len(results.items), -np.inf, np.float32)
    for query, count in enumerate(results.counts):
        scores = results.scores[query, :count]
        if queries.own is not None:
            scores = scores[results.items[query, :count] != queries.own[query]]
        if len(scores):
            required[query] = float(scores[:K].min()) - 2 * TIE
    return required


def measure(
    index: ExactIndex, queries: QuerySet, required: NDArray[np.float32], allowed: ItemMask | None = None
) -> tuple[float, float]:
    """Return recall@10 and the median seconds of a query, searched one at a time on one thread.

    Args:
        index: The index to measure.
        queries: The queries.
        required: The score of a right result of each query, [q]; see `required_scores`.
        allowed: The rows that a search may return.
    """
    index.search(queries.vectors[:1], K + 1, allowed)  # so that what the first search caches is not measured
    seconds, found = np.empty(len(required)), np.empty(len(required))
    with one_thread():
        for query in range(len(required)):
            vector = queries.vectors[query : query + 1]
            started = time.perf_counter()
            results = index.search(vector, K + 1, allowed)
            seconds[query] = time.perf_counter() - started
            right = results.scores[0] >= required[query]
            if queries.own is not None:
                right &= results.items[0] != queries.own[query]
            found[query] = min(K, int(np.count_nonzero(right)))
    possible = K if allowed is None else min(K, allowed.count)
    return float(np.minimum(1, found / max(1, possible)).mean()), float(np.median(seconds))


def _row_space(vectors: Vectors) -> Space:
    return Space("tuning", vectors.shape[1], "")
