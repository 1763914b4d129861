"""Live changes: an immutable index, a small exact one of what came since, and what is gone from both.

A LiveIndex never changes either: each batch of changes makes a new one around the same base, so that a search sees one
state from beginning to end. The rows that came are kept in arrays that only grow and that all share.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from index.exact import ExactIndex, empty_hits, record, top
from index.protocol import VectorIndex
from index.selection import Selection
from index.space import Hits, Owners, Space, Vectors, check_queries, sound_rows

FEW = 32  # items gone up to which the base is asked for that many more


class Added:
    """Rows that came after the base was built, in growing arrays; `items` numbered from 0 as they came."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._vectors: Vectors = np.empty((64, space.dim), np.float32)
        self._owners: Owners = np.empty(64, np.int32)
        self._labels: Owners = np.empty(64, np.int32)
        self._rows = 0

    def append(self, item: int, labels: Sequence[int], vectors: Vectors) -> int:
        """Give `item`, numbered above all before, its rows [n, dim]; how many were left out for lack of direction."""
        unit, sound = sound_rows(vectors)
        end = self._rows + len(unit)
        while end > len(self._owners):
            # Views of before keep the old arrays, whose part of the rows never changes.
            self._vectors = np.concatenate([self._vectors, np.empty_like(self._vectors)])
            self._owners = np.concatenate([self._owners, np.empty_like(self._owners)])
            self._labels = np.concatenate([self._labels, np.empty_like(self._labels)])
        self._vectors[self._rows : end] = unit
        self._owners[self._rows : end] = item
        self._labels[self._rows : end] = np.asarray(labels, np.int32)[sound]
        self._rows = end
        return int(np.count_nonzero(~sound))

    def index(self, items: int) -> ExactIndex:
        """Exact search over what came so far, of so many items."""
        rows = slice(self._rows)
        return ExactIndex(self._space, self._vectors[rows], self._owners[rows], self._labels[rows], items)


class LiveIndex:
    """A base with what was `added` (numbered on from the base's items) and without the items that are `deleted`."""

    def __init__(self, base: VectorIndex, added: ExactIndex, deleted: NDArray[np.int64]) -> None:
        self.space, self.factory = base.space, base.factory
        self.items = base.items + added.items
        self._base, self._added, self._deleted = base, added, deleted
        self._deleted_from_base = deleted[deleted < base.items]
        self._still_there: Selection | None = None

    def search(self, queries: Vectors, k: int, allowed: Selection | None = None) -> Hits:
        """See VectorIndex. A selection must leave out what is gone."""
        queries = check_queries(queries, self.space.dim, k)
        if allowed is None:
            base = self._search_base(queries, k)
            added = self._added.search(queries, k, self._alive_added())
        else:
            of_base, of_added = allowed.made_for((self, "parts"), self._parts)
            base = self._base.search(queries, k, of_base)
            added = self._added.search(queries, k, of_added)
        hits = empty_hits(len(queries), k)
        for query in range(len(queries)):
            first, second = int(base.counts[query]), int(added.counts[query])
            items = np.concatenate([base.ids[query, :first], added.ids[query, :second] + self._base.items])
            scores = np.concatenate([base.scores[query, :first], added.scores[query, :second]])
            best = top(scores, items, k)
            record(hits, query, items[best], scores[best])
        return hits

    def scores_of(self, query: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See VectorIndex; -inf also for an item that is gone."""
        split = int(np.searchsorted(items, self._base.items))
        scores = np.concatenate(
            [
                self._base.scores_of(query, items[:split]),
                self._added.scores_of(query, items[split:] - self._base.items),
            ]
        )
        scores[np.isin(items, self._deleted)] = -np.inf
        return scores

    def scores_of_all(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See VectorIndex; -inf also for an item that is gone."""
        scores = np.concatenate([self._base.scores_of_all(query), self._added.scores_of_all(query)])
        scores[self._deleted] = -np.inf
        return scores

    def vectors_of(self, items: NDArray[np.int64]) -> Vectors:
        """See VectorIndex."""
        vectors = np.empty((len(items), self.space.dim), np.float32)
        of_base = items < self._base.items
        vectors[of_base] = self._base.vectors_of(items[of_base])
        vectors[~of_base] = self._added.vectors_of(items[~of_base] - self._base.items)
        return vectors

    def rows_of(self, item: int) -> tuple[NDArray[np.int32], Vectors]:
        """See VectorIndex."""
        index, number = self._holder(item)
        return index.rows_of(number)

    def best_labels(self, query: NDArray[np.float32], items: Sequence[int]) -> list[int | None]:
        """See VectorIndex."""
        before = self._base.items
        of_base = iter(self._base.best_labels(query, [item for item in items if item < before]))
        of_added = iter(self._added.best_labels(query, [item - before for item in items if item >= before]))
        return [next(of_base if item < before else of_added) for item in items]

    def _holder(self, item: int) -> tuple[VectorIndex, int]:
        return (self._base, item) if item < self._base.items else (self._added, item - self._base.items)

    def _search_base(self, queries: Vectors, k: int) -> Hits:
        """The k best of the base that are still there."""
        deleted = len(self._deleted_from_base)
        if not deleted:
            return self._base.search(queries, k)
        asked = k + min(deleted, FEW)
        found = self._base.search(queries, asked)
        there = ~np.isin(found.ids, self._deleted_from_base) & (found.ids >= 0)
        if deleted > FEW and (there.sum(axis=1) < np.minimum(k, found.counts)).any():
            if self._still_there is None:
                mask = np.ones(self._base.items, np.bool_)
                mask[self._deleted_from_base] = False
                self._still_there = Selection(mask)
            return self._base.search(queries, k, self._still_there)
        hits = empty_hits(len(queries), k)
        for query, kept in enumerate(there):
            places = np.flatnonzero(kept)[:k]
            record(hits, query, found.ids[query, places], found.scores[query, places])
        return hits

    def _alive_added(self) -> Selection | None:
        deleted = self._deleted[self._deleted >= self._base.items] - self._base.items
        if not len(deleted):
            return None
        mask = np.ones(self._added.items, np.bool_)
        mask[deleted] = False
        return Selection(mask)

    def _parts(self, allowed: Selection) -> tuple[Selection, Selection]:
        return Selection(allowed.mask[: self._base.items]), Selection(allowed.mask[self._base.items :])
