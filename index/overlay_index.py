"""Live changes over an immutable index: an exact index of the added rows, and the items deleted from both.

An OverlayIndex never changes: each batch of changes makes a new one around the same base, so that a search sees one
state from start to end. Added rows are stored in arrays that only grow and that all overlays share.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.exact_index import ExactIndex
from index.item_mask import ItemMask
from index.protocol import VectorIndex
from index.space import NearestItems, Owners, Space, Vectors, normalize_queries, normalize_rows
from index.top_k import TIE, top_k

MAX_EXTRA_RESULTS = 32  # deleted items up to which the base is searched for that many more results, not with a mask


class AddedRows:
    """Rows added since the base was built, in growing arrays; their item indices count from 0."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._vectors: Vectors = np.empty((64, space.dim), np.float32)
        self._owners: Owners = np.empty(64, np.int32)
        self._labels: Owners = np.empty(64, np.int32)
        self._rows = 0

    def append(self, item: int, labels: Sequence[int], vectors: Vectors) -> int:
        """Add the rows [n, dim] of an item; returns how many were dropped because they have no direction.

        `item` must be greater than all items added before.
        """
        unit, valid = normalize_rows(vectors)
        end = self._rows + len(unit)
        while end > len(self._owners):
            # Earlier views keep the old arrays, whose filled part never changes.
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
            self._owners = np.concatenate([self._owners, np.empty_like(self._owners)])
            self._labels = np.concatenate([self._labels, np.empty_like(self._labels)])
        self._vectors[self._rows : end] = unit
        self._owners[self._rows : end] = item
        self._labels[self._rows : end] = np.asarray(labels, np.int32)[valid]
        self._rows = end
        return int(np.count_nonzero(~valid))

    def index(self, items: int) -> ExactIndex:
        """Return an exact index over the rows added so far, of `items` items."""
        rows = slice(self._rows)
        return ExactIndex(self._space, self._vectors[rows], self._owners[rows], self._labels[rows], items)


class OverlayIndex:
    """A base index plus `added` items, whose indices follow the base's, without the `deleted` items."""

    def __init__(self, base: VectorIndex, added: ExactIndex, deleted: NDArray[np.int64]) -> None:
        self.space, self.factory = base.space, base.factory
        self.items = base.items + added.items
        self._base, self._added, self._deleted = base, added, deleted
        self._deleted_from_base = deleted[deleted < base.items]
        self._remaining: ItemMask | None = None

    def search(self, queries: Vectors, k: int, allowed: ItemMask | None = None) -> NearestItems:
        """Find the k best items; see VectorIndex. A mask must exclude the deleted items."""
        queries = normalize_queries(queries, self.space.dim, k)
        if allowed is None:
            base = self._search_base(queries, k)
            added = self._added.search(queries, k, self._remaining_added())
        else:
            base_mask, added_mask = allowed.cached((self, "parts"), self._split_mask)
            base = self._base.search(queries, k, base_mask)
            added = self._added.search(queries, k, added_mask)
        results = NearestItems.empty(len(queries), k)
        for query in range(len(queries)):
            base_count, added_count = int(base.counts[query]), int(added.counts[query])
            items = np.concatenate(
                [base.items[query, :base_count], added.items[query, :added_count] + self._base.items]
            )
            scores = np.concatenate([base.scores[query, :base_count], added.scores[query, :added_count]])
            order = top_k(scores, items, k, TIE)
            results.fill(query, items[order], scores[order])
        return results

    def score_items(self, query: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See VectorIndex; -inf also for a deleted item."""
        split = int(np.searchsorted(items, self._base.items))
        scores = np.concatenate(
            [
                self._base.score_items(query, items[:split]),
                self._added.score_items(query, items[split:] - self._base.items),
            ]
        )
        scores[np.isin(items, self._deleted)] = -np.inf
        return scores

    def score_all_items(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See VectorIndex; -inf also for a deleted item."""
        scores = np.concatenate([self._base.score_all_items(query), self._added.score_all_items(query)])
        scores[self._deleted] = -np.inf
        return scores

    def first_vectors(self, items: NDArray[np.int64]) -> Vectors:
        """See VectorIndex."""
        vectors = np.empty((len(items), self.space.dim), np.float32)
        in_base = items < self._base.items
        vectors[in_base] = self._base.first_vectors(items[in_base])
        vectors[~in_base] = self._added.first_vectors(items[~in_base] - self._base.items)
        return vectors

    def item_rows(self, item: int) -> tuple[NDArray[np.int32], Vectors]:
        """See VectorIndex."""
        if item < self._base.items:
            return self._base.item_rows(item)
        return self._added.item_rows(item - self._base.items)

    def best_labels(self, query: NDArray[np.float32], items: Sequence[int]) -> list[int | None]:
        """See VectorIndex."""
        first_added = self._base.items
        base = iter(self._base.best_labels(query, [item for item in items if item < first_added]))
        added = iter(self._added.best_labels(query, [item - first_added for item in items if item >= first_added]))
        return [next(base if item < first_added else added) for item in items]

    def _search_base(self, queries: Vectors, k: int) -> NearestItems:
        """Find the k best items of the base that are not deleted."""
        deleted = len(self._deleted_from_base)
        if not deleted:
            return self._base.search(queries, k)
        nearest = self._base.search(queries, k + min(deleted, MAX_EXTRA_RESULTS))
        remaining = ~np.isin(nearest.items, self._deleted_from_base) & (nearest.items >= 0)
        too_few = (remaining.sum(axis=1) < np.minimum(k, nearest.counts)).any()
        if deleted > MAX_EXTRA_RESULTS and too_few:
            if self._remaining is None:
                mask = np.ones(self._base.items, np.bool_)
                mask[self._deleted_from_base] = False
                self._remaining = ItemMask(mask)
            return self._base.search(queries, k, self._remaining)
        results = NearestItems.empty(len(queries), k)
        for query, row in enumerate(remaining):
            positions = np.flatnonzero(row)[:k]
            results.fill(query, nearest.items[query, positions], nearest.scores[query, positions])
        return results

    def _remaining_added(self) -> ItemMask | None:
        deleted = self._deleted[self._deleted >= self._base.items] - self._base.items
        if not len(deleted):
            return None
        mask = np.ones(self._added.items, np.bool_)
        mask[deleted] = False
        return ItemMask(mask)

    def _split_mask(self, allowed: ItemMask) -> tuple[ItemMask, ItemMask]:
        return ItemMask(allowed.mask[: self._base.items]), ItemMask(allowed.mask[self._base.items :])
