"""Gather rows that lie in ranges of different lengths."""

import numpy as np
from numpy.typing import NDArray


def range_indices(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return start, start + 1, ..., start + count - 1 of each range [r], one range after the other, [sum of counts]."""
    rows: NDArray[np.int64] = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return rows
