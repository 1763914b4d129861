"""Co-visitation: which items users went to after an item, counted in a sparse matrix from item to item.

Two interactions of a user that are d steps apart add `1 / sqrt(d)` from the earlier item to the later one, and a third
of that in the other direction. Both are multiplied by the weights of the interactions, and halve with each half-life
of age. Rows are divided by powers of the popularity of both items, the first item's power being larger, and keep their
strongest entries. The powers were chosen on the validation items of two public data sets (tests/bench/README.md).

A history scores an item by the sum over the rows of its items, each step back counting less.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from embed.behaviour.interactions import Interactions
from serve.core.ragged import ragged_indices, ragged_offsets
from serve.core.units import DAY
from serve.recommend.feature_groups import OTHERS
from serve.recommend.retrieval.retriever import (
    ItemIndexMapping,
    RetrievalContext,
    Retriever,
    RetrieverResult,
    RetrieverSpec,
)
from serve.recommend.retrieval.retriever_results import SparseResult
from serve.recommend.retrieval.user_history import UserHistory

MAX_STEPS = 30  # between two interactions that count as one interest
BACKWARDS = 0.33
FROM_POWER, TO_POWER = 0.4, 0.15
HISTORY_FADE = 0.65  # weight of an item of the history relative to the next later one
MAX_NEIGHBOURS = 200
FILES = ("covisitation_starts.npy", "covisitation_items.npy", "covisitation_scores.npy")


class Covisitation:
    """Scores of the items that users went to from each of n items, as compressed sparse rows."""

    def __init__(self, starts: NDArray[np.int64], items: NDArray[np.int32], scores: NDArray[np.float32]) -> None:
        self._starts, self._items, self._scores = starts, items, scores

    @classmethod
    def count(cls, interactions: Interactions, now: float, half_life_days: float = 60.0) -> "Covisitation":
        """Count interactions by their worth at `now` (epoch seconds)."""
        n = interactions.items
        user, item = interactions.user, interactions.item
        age = np.maximum(0, now - interactions.time) / (DAY * half_life_days)
        worth = (interactions.weight * 0.5**age).astype(np.float32)
        total = sparse.csr_matrix((n, n), dtype=np.float32)
        for step in range(1, MAX_STEPS + 1):
            same_user = user[:-step] == user[step:]
            if not same_user.any():
                break
            earlier, later = item[:-step][same_user], item[step:][same_user]
            strength = np.sqrt(worth[:-step][same_user] * worth[step:][same_user] / step)
            forward = sparse.csr_matrix((strength, (earlier, later)), shape=(n, n))
            total = total + forward + BACKWARDS * forward.T
        popularity = np.bincount(item, weights=worth, minlength=n).clip(min=1e-9)
        scaled = sparse.diags_array(popularity**-FROM_POWER) @ total @ sparse.diags_array(popularity**-TO_POWER)
        return cls(*_strongest(sparse.csr_matrix(scaled)))

    @property
    def matrix(self) -> sparse.csr_array:
        """The scores [n, n], a row for each item that users came from."""
        n = len(self._starts) - 1
        return sparse.csr_array((self._scores, self._items, self._starts), (n, n))

    @classmethod
    def open(cls, folder: Path) -> "Covisitation":
        """Map what `write` wrote."""
        # As plain arrays: every slice of a memmap costs microseconds.
        return cls(*(np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in FILES))

    def write(self, folder: Path) -> None:
        """Write the matrix into a folder that exists."""
        arrays: tuple[NDArray[Any], ...] = (self._starts, self._items, self._scores)
        for name, values in zip(FILES, arrays, strict=True):
            np.save(folder / name, values, allow_pickle=False)

    def score_history(
        self, history: NDArray[np.int64], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the m items that a history [h], the latest last, leads to, in rising order, and their scores [m]."""
        worth = HISTORY_FADE ** np.arange(len(history))[::-1]
        counts = (weights > 0) & (worth > 1e-3)  # a disliked item leads to no other
        rows = [slice(self._starts[item], self._starts[item + 1]) for item in history[counts].tolist()]
        parts = [
            self._scores[row] * np.float32(factor) for row, factor in zip(rows, worth[counts].tolist(), strict=True)
        ]
        items = np.concatenate([np.empty(0, np.int64), *(self._items[row] for row in rows)]).astype(np.int64)
        order = items.argsort(kind="stable")
        items, scores = items[order], np.concatenate([np.empty(0, np.float32), *parts])[order]
        first = np.flatnonzero(np.diff(items, prepend=-1))
        return items[first], np.add.reduceat(scores, first) if len(first) else scores

    def score_pairs(self, history: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what each of h items adds to the score of each of m others, [m, h]; 0 for an item index of -1."""
        scores = np.zeros((len(items), len(history)), np.float32)
        for column, item in enumerate(history.tolist()):
            row = slice(self._starts[item], self._starts[item + 1]) if item >= 0 else slice(0, 0)
            neighbours = self._items[row]
            if len(neighbours):
                at = np.searchsorted(neighbours, items).clip(max=len(neighbours) - 1)
                scores[:, column] = np.where(neighbours[at] == items, self._scores[row][at], 0)
        return scores


def _strongest(
    matrix: "sparse.csr_matrix",
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Return the MAX_NEIGHBOURS strongest entries of each row, without the row's own item, in order of items."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    other = (rows != matrix.indices) & (matrix.data > 0)
    rows, items, scores = rows[other], matrix.indices[other], matrix.data[other].astype(np.float32)
    order = np.lexsort((items, -scores, rows))
    counts = np.bincount(rows, minlength=matrix.shape[0])
    rank = ragged_indices(np.zeros_like(counts), counts)
    strongest = np.sort(order[rank < MAX_NEIGHBOURS])
    strongest = strongest[np.lexsort((items[strongest], rows[strongest]))]
    starts = ragged_offsets(np.bincount(rows[strongest], minlength=matrix.shape[0]))
    return starts, items[strongest].astype(np.int32), scores[strongest]


class CovisitationRetriever:
    """Returns the items that other users went to after the user's items."""

    def __init__(self, counts: Covisitation, index_mapping: ItemIndexMapping | None = None) -> None:
        self._counts, self._index_mapping = counts, index_mapping

    def retrieve(self, user: UserHistory) -> RetrieverResult | None:
        history = user.item if self._index_mapping is None else self._index_mapping.to_release[user.item]
        items, scores = self._counts.score_history(history[history >= 0], user.weight[history >= 0])
        if self._index_mapping is not None:
            items = self._index_mapping.to_snapshot[items]
            order = items.argsort(kind="stable")[np.count_nonzero(items < 0) :]
            items, scores = items[order], scores[order]
        return SparseResult(items, scores) if len(items) else None


def _build(context: RetrievalContext) -> Retriever | None:
    return CovisitationRetriever(context.behaviour.covisitation, context.index_mapping)


SPEC = RetrieverSpec("covisitation", _build, OTHERS, OTHERS.wording, weight=1.0, smoothing=0.05)
