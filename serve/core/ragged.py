"""Rows of different lengths that lie one after the other in flat arrays."""

import numpy as np
from numpy.typing import NDArray


def ragged_offsets(lengths: NDArray[np.integer | np.bool_]) -> NDArray[np.int64]:
    """Return where each of n rows starts, and where the last one ends [n + 1], from their lengths [n]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def ragged_indices(starts: NDArray[np.integer | np.bool_], lengths: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the flat indices of rows that begin at `starts` [n] and have `lengths` [n], row after row."""
    offsets = ragged_offsets(lengths)
    indices: NDArray[np.int64] = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    return indices
