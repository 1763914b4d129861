"""Small interactions and user histories."""

import numpy as np
from hypothesis import strategies as st

from embed.behaviour import Interactions
from serve.core.units import DAY
from serve.recommend.retrieval.user_history import UserHistory

NOW = 1_700_000_000.0


def interactions(rows: list[tuple[int, int, float, float]], items: int = 8) -> Interactions:
    """From (user, item, days ago, weight), in order."""
    rows = sorted(rows, key=lambda row: (row[0], -row[2]))
    users = max((row[0] for row in rows), default=-1) + 1
    starts = np.concatenate([[0], np.cumsum(np.bincount([row[0] for row in rows], minlength=users))]).astype(np.int64)
    return Interactions(
        np.array([f"u{user}" for user in range(users)], object),
        items,
        starts,
        np.array([row[1] for row in rows], np.int32),
        np.zeros(len(rows), np.int8),
        NOW - DAY * np.array([row[2] for row in rows], np.float64),
        np.array([row[3] for row in rows], np.float32),
    )


def user_history(items: list[int], weights: list[float] | None = None) -> UserHistory:
    count = len(items)
    return UserHistory(
        np.array(items, np.int64),
        np.zeros(count, np.int64),
        np.full(count, NOW),
        np.array(weights if weights is not None else [1.0] * count, np.float32),
    )


some_rows = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 7), st.floats(0, 100), st.sampled_from([0.0, 1.0, 3.0])), max_size=40
)
