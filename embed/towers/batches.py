"""Makes batches of user histories for training: windows, grouped by length to keep padding low."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embed.behaviour.interactions import Interactions
from embed.ragged import range_indices


class Histories(NamedTuple):
    """b histories, each filled from the left up to its `length` [b].

    Each interaction [b, longest] has an `item`, a `kind`, and a `gap`, the seconds since the one before.
    """

    item: NDArray[np.int64]
    kind: NDArray[np.int64]
    gap: NDArray[np.float32]
    length: NDArray[np.int64]


class Batch(NamedTuple):
    """Histories, and the next item after each interaction: `target` [b, longest] with its `weight`, 0 for none."""

    histories: Histories
    target: NDArray[np.int64]
    weight: NDArray[np.float32]


def cut_windows(interactions: Interactions, history: int) -> NDArray[np.int64]:
    """Cut histories into windows of at most history + 1 interactions, so that each interaction is predicted once.

    The windows of a user are cut from the end; each overlaps the one before by one interaction. Returns first and
    last + 1 of each window, [w, 2].
    """
    lengths = np.diff(interactions.starts)
    counts = np.maximum(0, -(-(lengths - 1) // history))
    user = np.repeat(np.arange(len(lengths)), counts)
    index = range_indices(np.zeros_like(counts), counts)  # of each window, from the user's last
    stop = interactions.starts[user + 1] - index * history
    start = np.maximum(interactions.starts[user], stop - history - 1)
    return np.stack([start, stop], axis=1)


def iterate_batches(
    interactions: Interactions, rows: NDArray[np.int64], tokens: int, random: np.random.Generator
) -> Iterator[Batch]:
    """Yield all windows [w, 2] once, in random batches of similar length with about `tokens` interactions.

    Args:
        interactions: The interactions.
        rows: First and last + 1 of each window.
        tokens: Interactions of a batch.
        random: Draws the order.
    """
    order = random.permutation(len(rows))
    length = rows[:, 1] - rows[:, 0] - 1
    order = order[np.argsort(length[order], kind="stable")]
    cuts = [0]
    while cuts[-1] < len(order):
        start = cuts[-1]
        # As many windows as fit at the first one's length, then as many as fit at the length of the last of these.
        stop = min(len(order), start + max(1, tokens // int(length[order[start]])))
        cuts.append(start + max(1, min(stop - start, tokens // int(length[order[stop - 1]]))))
    for index in random.permutation(len(cuts) - 1):
        chosen = rows[order[cuts[index] : cuts[index + 1]]]
        yield _batch(interactions, chosen[:, 0], chosen[:, 1])


def make_histories(interactions: Interactions, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Histories:
    """Make a batch of b histories: interactions `start` to `stop` - 1 [b], each range of one user."""
    length = stop - start
    position = np.arange(length.max(initial=1))
    at = np.where(position < length[:, None], start[:, None] + position, start[:, None])  # [b, longest]
    time = interactions.time[at]
    return Histories(
        interactions.item[at].astype(np.int64),
        interactions.kind[at].astype(np.int64),
        np.diff(time, axis=1, prepend=time[:, :1]).astype(np.float32),
        length,
    )


def _batch(interactions: Interactions, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Batch:
    histories = make_histories(interactions, start, stop - 1)
    position = np.arange(histories.item.shape[1])
    inside = position < histories.length[:, None]
    target = np.where(inside, start[:, None] + position + 1, start[:, None])
    weight = np.where(inside, interactions.weight[target], 0).astype(np.float32)
    return Batch(histories, interactions.item[target].astype(np.int64), weight)
