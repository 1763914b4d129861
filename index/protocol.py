"""What every index can do, whichever way it does it: exact, FAISS, with live changes on top, or another engine."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.selection import Selection
from index.space import Hits, Space, Vectors


class VectorIndex(Protocol):
    """Items 0 to `items` - 1 with any number of rows each in a space; an item scores as its best row does."""

    space: Space
    factory: str
    items: int

    def search(self, queries: Vectors, k: int, allowed: Selection | None = None) -> Hits:
        """The k best items for each of q queries [q, dim], ties by item number; `allowed` limits them.

        Always k items where k are allowed. Raises BadQuery for another shape, a row without direction, and k < 1.
        """

    def scores_of(self, query: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """How the unit `query` [dim] scores m distinct items, given in rising order, [m]; -inf for one without rows."""

    def scores_of_all(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """How the unit `query` [dim] scores every item, [items]; -inf for one that has no row in the space."""

    def vectors_of(self, items: NDArray[np.int64]) -> Vectors:
        """The first row of each of m items (its main image), [m, dim]; zeros for one without rows."""

    def rows_of(self, item: int) -> tuple[NDArray[np.int32], Vectors]:
        """The labels [n] and vectors [n, dim] of all rows of an item."""

    def best_labels(self, query: NDArray[np.float32], items: Sequence[int]) -> list[int | None]:
        """For each item the label of its row that the unit `query` [dim] scores best, or None where it has none."""
