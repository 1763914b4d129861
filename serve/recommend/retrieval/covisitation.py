"""Co-visitation: what shoppers went to after an item, counted; a sparse matrix from item to item.

Two interactions of a shopper that lie d steps apart count `1 / sqrt(d)` from the earlier item to the later one, and a
third of that the other way; both by how much each tells, and halved for each half-life that they lie back. Rows are
scaled by the popularity of both items, the one that was left more than the one that was reached, and keep their
strongest. The powers were chosen on the validation items of two public data sets (tests/bench/README.md).

A history scores an item by the sum of its items' rows, each step back in it counting less.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from embed.behaviour.interactions import Interactions

DAY = 86_400.0
REACH = 30  # steps between two interactions that are still taken for one interest
BACKWARDS = 0.33
FROM_POWER, TO_POWER = 0.4, 0.15
FADE = 0.65  # of the weight of a history's item with each step back
MAX_NEIGHBOURS = 200
FILES = ("covisitation_starts.npy", "covisitation_items.npy", "covisitation_scores.npy")


class Covisitation:
    """Scores of items reached from each of n items, as compressed sparse rows."""

    def __init__(self, starts: NDArray[np.int64], items: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        self._starts, self._items, self._scores = starts, items, scores

    @classmethod
    def count(cls, interactions: Interactions, now: float, half_life_days: float = 60.0) -> "Covisitation":
        """Count interactions as they are worth at `now` (epoch seconds)."""
        n = interactions.items
        user, item = interactions.user, interactions.item
        age = np.maximum(0, now - interactions.time) / (DAY * half_life_days)
        worth = (interactions.weight * 0.5**age).astype(np.float32)
        total = sparse.csr_matrix((n, n), dtype=np.float32)
        for step in range(1, REACH + 1):
            together = user[:-step] == user[step:]
            if not together.any():
                break
            before, after = item[:-step][together], item[step:][together]
            strength = np.sqrt(worth[:-step][together] * worth[step:][together] / step)
            forward = sparse.csr_matrix((strength, (before, after)), shape=(n, n))
            total = total + forward + BACKWARDS * forward.T
        popularity = np.bincount(item, weights=worth, minlength=n).clip(min=1e-9)
        scaled = sparse.diags_array(popularity**-FROM_POWER) @ total @ sparse.diags_array(popularity**-TO_POWER)
        return cls(*_strongest(sparse.csr_matrix(scaled)))

    @property
    def table(self) -> sparse.csr_array:
        """The scores [n, n] of items by the item that was left."""
        n = len(self._starts) - 1
        return sparse.csr_array((self._scores, self._items, self._starts), (n, n))

    @classmethod
    def open(cls, folder: Path) -> "Covisitation":
        """Map what `write` wrote."""
        # As plain arrays: every slice of a memmap costs microseconds.
        return cls(*(np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in FILES))

    def write(self, folder: Path) -> None:
        arrays: tuple[NDArray[Any], ...] = (self._starts, self._items, self._scores)
        for name, values in zip(FILES, arrays, strict=True):
            np.save(folder / name, values, allow_pickle=False)

    def reached(
        self, history: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The m items that a history [h], the latest last, leads to, in rising order [m], and their scores [m]."""
        worth = FADE ** np.arange(len(history))[::-1]
        leads = (weights > 0) & (worth > 1e-3)  # what was disliked leads nowhere
        rows = [slice(self._starts[item], self._starts[item + 1]) for item in history[leads].tolist()]
        parts = [self._scores[row] * np.float32(of) for row, of in zip(rows, worth[leads].tolist(), strict=True)]
        items = np.concatenate([np.empty(0, np.int64), *(self._items[row] for row in rows)]).astype(np.int64)
        order = items.argsort(kind="stable")
        items, scores = items[order], np.concatenate([np.empty(0, np.float32), *parts])[order]
        first = np.flatnonzero(np.diff(items, prepend=-1))
        return items[first], np.add.reduceat(scores, first) if len(first) else scores

    def pairs(self, history: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """What each of h items adds to the score of each of m others, [m, h]; 0 for an item under the number -1."""
        found = np.zeros((len(items), len(history)), np.float32)
        for place, item in enumerate(history.tolist()):
            row = slice(self._starts[item], self._starts[item + 1]) if item >= 0 else slice(0, 0)
            reached = self._items[row]
            if len(reached):
                at = np.searchsorted(reached, items).clip(max=len(reached) - 1)
                found[:, place] = np.where(reached[at] == items, self._scores[row][at], 0)
        return found


def _strongest(
    matrix: "sparse.csr_matrix",
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """The strongest MAX_NEIGHBOURS of each row, without the row's own item, in order of items."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    other = (rows != matrix.indices) & (matrix.data > 0)
    rows, items, scores = rows[other], matrix.indices[other], matrix.data[other].astype(np.float32)
    order = np.lexsort((items, -scores, rows))
    counts = np.bincount(rows, minlength=matrix.shape[0])
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[place < MAX_NEIGHBOURS])
    kept = kept[np.lexsort((items[kept], rows[kept]))]
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows[kept], minlength=matrix.shape[0]))])
    return starts.astype(np.int64), items[kept].astype(np.int32), scores[kept]
