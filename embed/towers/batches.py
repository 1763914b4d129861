"""Batches of histories: windows of them to learn from, bucketed by length so that next to nothing is padding."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embed.behaviour.interactions import Interactions


class Histories(NamedTuple):
    """b histories, each filled from the left up to its `length` [b].

    Of each interaction [b, longest] its `item`, its `kind` and its `gap`, the seconds since the one before.
    """

    item: NDArray[np.int64]
    kind: NDArray[np.int64]
    gap: NDArray[np.float32]
    length: NDArray[np.int64]


class Batch(NamedTuple):
    """Histories, and of each interaction what came next: `target` [b, longest] with its `weight`, 0 for nothing."""

    histories: Histories
    target: NDArray[np.int64]
    weight: NDArray[np.float32]


def windows(interactions: Interactions, history: int) -> NDArray[np.int64]:
    """Windows of at most history + 1 interactions, first and last + 1, [w, 2], in which each is predicted once.

    Those of a shopper are cut from the end, and overlap by the one that the later begins with.
    """
    lengths = np.diff(interactions.starts)
    counts = np.maximum(0, -(-(lengths - 1) // history))
    user = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    stop = interactions.starts[user + 1] - number * history
    start = np.maximum(interactions.starts[user], stop - history - 1)
    return np.stack([start, stop], axis=1)


def batches(
    interactions: Interactions, rows: NDArray[np.int64], tokens: int, random: np.random.Generator
) -> Iterator[Batch]:
    """All windows [w, 2] once, in random batches of windows of like length and about `tokens` interactions."""
    order = random.permutation(len(rows))
    length = rows[:, 1] - rows[:, 0] - 1
    order = order[np.argsort(length[order], kind="stable")]
    cuts = [0]
    while cuts[-1] < len(order):
        start = cuts[-1]
        # As many as fit at the length of the first, then as many as fit at the length of the last of these.
        stop = min(len(order), start + max(1, tokens // int(length[order[start]])))
        cuts.append(start + max(1, min(stop - start, tokens // int(length[order[stop - 1]]))))
    for place in random.permutation(len(cuts) - 1):
        chosen = rows[order[cuts[place] : cuts[place + 1]]]
        yield _batch(interactions, chosen[:, 0], chosen[:, 1])


def histories(interactions: Interactions, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Histories:
    """Interactions `start` to `stop` - 1 [b], which are one shopper's each, as a batch."""
    length = stop - start
    place = np.arange(length.max(initial=1))
    at = np.where(place < length[:, None], start[:, None] + place, start[:, None])  # [b, longest]
    time = interactions.time[at]
    return Histories(
        interactions.item[at].astype(np.int64),
        interactions.kind[at].astype(np.int64),
        np.diff(time, axis=1, prepend=time[:, :1]).astype(np.float32),
        length,
    )


def _batch(interactions: Interactions, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Batch:
    found = histories(interactions, start, stop - 1)
    place = np.arange(found.item.shape[1])
    inside = place < found.length[:, None]
    following = np.where(inside, start[:, None] + place + 1, start[:, None])
    weight = np.where(inside, interactions.weight[following], 0).astype(np.float32)
    return Batch(found, interactions.item[following].astype(np.int64), weight)
