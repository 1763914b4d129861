"""Ragged arrays: offsets and indices of ranges of different lengths."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from embed.ragged import make_offsets, range_indices


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5)), max_size=20))
def test_indices_are_those_of_each_range_in_turn(ranges: list[tuple[int, int]]) -> None:
    starts, lengths = (np.array([pair[part] for pair in ranges], np.int64) for part in (0, 1))
    expected = [index for start, length in ranges for index in range(start, start + length)]
    assert range_indices(starts, lengths).tolist() == expected
    assert np.diff(make_offsets(lengths)).tolist() == lengths.tolist()
    assert make_offsets(lengths)[-1] == len(expected)
