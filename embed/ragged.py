"""Ragged arrays: many ranges of different lengths, stored one after the other in one flat array.

`offsets` [n + 1] says where each range begins: range i is `flat[offsets[i]:offsets[i + 1]]`.
"""

import numpy as np
from numpy.typing import NDArray


def make_offsets(lengths: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where each of n ranges begins when they follow one another, and where the last ends, [n + 1]."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def range_indices(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices `starts[i]`, `starts[i] + 1`, ... of n ranges of `lengths` [n], one range after the other."""
    offsets = make_offsets(lengths)
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
