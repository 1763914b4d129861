"""A space: a named set of comparable vectors, and what may enter it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.errors import BadQuery, Damaged

Vectors = NDArray[np.float32]  # [n, dim], unit rows
Owners = NDArray[np.int32]  # [n], the item number of each row, never decreasing
UNIT = 1e-6  # squared lengths this close to one are as close as float32 rows get


@dataclass(frozen=True)
class Space:
    """`fingerprint` stands for whatever made the vectors; vectors of another one are refused even at the same `dim`."""

    name: str
    dim: int
    fingerprint: str

    def check(self, other: "Space") -> None:
        """Raise Damaged, naming both sides, unless `other` is this very space."""
        if other != self:
            raise Damaged(f"{other} does not belong to {self}: they were made by different builds", self.name)


@dataclass(slots=True)  # not frozen, which would make each cost a microsecond more
class Hits:
    """What a search of q queries found, best first.

    `ids` [q, k] are item numbers, `scores` [q, k] cosines. Beyond `counts[q]` ids are -1, scores -inf: never an item.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    counts: NDArray[np.int64]


def sound_rows(vectors: NDArray[Any]) -> tuple[Vectors, NDArray[np.bool_]]:
    """Unit rows [m, dim] of those vectors [n, dim] that have a direction, and which they are [n].

    A row with NaN, an infinity or length zero has none and is left out; others are scaled to length one.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    sound = np.isfinite(lengths) & (lengths > 0)
    if not sound.all():
        vectors, lengths = vectors[sound], lengths[sound]
    return (vectors / lengths[:, None]).astype(np.float32), sound


def check_queries(queries: NDArray[Any], dim: int, k: int) -> Vectors:
    """Queries [q, dim] as unit rows; raises BadQuery for another shape, for rows without direction, and for k < 1."""
    if queries.shape == (1, dim) and queries.dtype == np.float32 and k > 0:
        query = queries[0]
        if abs(query.dot(query) - 1) < UNIT:
            return np.ascontiguousarray(queries)  # what nearly every request asks
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise BadQuery(f"queries have shape {list(queries.shape)}, this space takes [q, {dim}]", "queries")
    if k < 1:
        raise BadQuery(f"k is {k}: ask for at least 1", "k")
    rows, sound = sound_rows(queries)
    if not sound.all():
        raise BadQuery(f"query {int(np.argmin(sound))} is zero, NaN or infinite: it points nowhere", "queries")
    return rows
