"""The interface of every vector index: exact, FAISS, Milvus, and the overlay of live changes."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.item_mask import ItemMask
from index.space import NearestItems, Space, Vectors


class VectorIndex(Protocol):
    """Items 0 to `items` - 1 with any number of rows each in a space; an item's score is the best score of its rows."""

    space: Space
    factory: str
    items: int

    def search(self, queries: Vectors, k: int, allowed: ItemMask | None = None) -> NearestItems:
        """Find the k best items for each of q queries [q, dim]; `allowed` limits them.

        Returns k items whenever k items are allowed. Cosines that differ by at most `top_k.TIE` from the best of their
        tie are ordered by item index. Raises InvalidQuery for another shape, a row without direction, or k < 1.
        """

    def score_items(self, query: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Score m distinct items, in ascending order, for the unit `query` [dim], [m]; -inf for one without rows."""

    def score_all_items(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score every item for the unit `query` [dim], [items]; -inf for an item without rows in the space."""

    def first_vectors(self, items: NDArray[np.int64]) -> Vectors:
        """Return the first row of each of m items (its main image), [m, dim]; zeros for an item without rows."""

    def item_rows(self, item: int) -> tuple[NDArray[np.int32], Vectors]:
        """Return the labels [n] and vectors [n, dim] of all rows of an item."""

    def best_labels(self, query: NDArray[np.float32], items: Sequence[int]) -> list[int | None]:
        """Return for each item the label of its best row for the unit `query` [dim]; None for one without rows."""
