"""Spaces (named sets of comparable vectors), search results, and the checks of vectors that enter a space."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.errors import IndexDamaged, InvalidQuery

Vectors = NDArray[np.float32]  # [n, dim], unit rows
Owners = NDArray[np.int32]  # [n], the item index of each row, never decreasing
UNIT_TOLERANCE = 1e-6  # a float32 row whose squared length differs less than this from one is a unit row


@dataclass(frozen=True)
class Space:
    """A named set of comparable vectors.

    `fingerprint` identifies the model and preprocessing that made the vectors. Vectors with another fingerprint are
    rejected, even at the same `dim`.
    """

    name: str
    dim: int
    fingerprint: str

    def check(self, other: "Space") -> None:
        """Raise IndexDamaged, which names both spaces, unless `other` equals this space."""
        if other != self:
            raise IndexDamaged(f"{other} does not belong to {self}: different builds made them", self.name)


@dataclass(slots=True)  # not frozen, which would make each instance a microsecond slower to create
class NearestItems:
    """The results of q queries, best first.

    `items` [q, k] are item indices, `scores` [q, k] cosines. Row q has `counts[q]` results; the remaining items are -1
    and the remaining scores -inf.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, queries: int, k: int) -> "NearestItems":
        """Return room for k results of each query, with no results yet."""
        shape = (queries, k)
        return cls(np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32), np.zeros(queries, np.int64))

    def fill(self, query: int, items: NDArray[np.integer[Any]], scores: NDArray[np.float32]) -> None:
        """Store the results of one query, best first, at most k."""
        count = len(items)
        self.items[query, :count], self.scores[query, :count], self.counts[query] = items, scores, count


def normalize_rows(vectors: NDArray[Any]) -> tuple[Vectors, NDArray[np.bool_]]:
    """Scale rows [n, dim] to length one; return the m valid ones [m, dim] and a mask of which are valid [n].

    A row that contains NaN or an infinity, or has length zero, has no direction and is dropped.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    valid = np.isfinite(lengths) & (lengths > 0)
    if not valid.all():
        vectors, lengths = vectors[valid], lengths[valid]
    return (vectors / lengths[:, None]).astype(np.float32), valid


def normalize_queries(queries: NDArray[Any], dim: int, k: int) -> Vectors:
    """Return queries [q, dim] as unit rows; raises InvalidQuery for a wrong shape, a row without direction or k < 1."""
    if queries.shape == (1, dim) and queries.dtype == np.float32 and k > 0:
        query = queries[0]
        if abs(query.dot(query) - 1) < UNIT_TOLERANCE:
            return np.ascontiguousarray(queries)  # the common case: one query that is a unit row already
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InvalidQuery(f"queries have shape {list(queries.shape)}, this space expects [q, {dim}]", "queries")
    if k < 1:
        raise InvalidQuery(f"k is {k}, expected at least 1", "k")
    rows, valid = normalize_rows(queries)
    if not valid.all():
        raise InvalidQuery(f"query {int(np.argmin(valid))} is zero, NaN or infinite and has no direction", "queries")
    return rows
