"""Diversity: lists in which no item is only more of the same.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next item is the one of the greatest

    (1 - d) * relevance - d * likeness to the most alike of those already chosen

with relevance scaled to 0 to 1 over the pool, and likeness the mean cosine over the spaces that both items are in.

Calibration: lists whose categories are mixed as the shopper's own history is (Steck, "Calibrated Recommendations",
RecSys 2018). The next item is the one of the greatest `(1 - c) * relevance - c * KL(p || q)`, where p are the history's
shares and q those of the list with the item, a little of p mixed in so that nothing is impossible.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MIXED_IN = 0.01


def diversify(scores: Floats, spaces: Sequence[Floats], k: int, diversity: float) -> NDArray[np.int64]:
    """The order in which k of m items are taken, [k], by their scores [m] and their vectors in each space [m, dim].

    Vectors are unit or, for an item that is not in a space, zero. `diversity` is between 0, by score alone, and 1.
    """
    m, relevance = len(scores), _scaled(scores)
    there = [np.asarray((vectors != 0).any(axis=1)) for vectors in spaces]
    nearest = np.full(m, -1.0, np.float32)  # the likeness to the most alike of the chosen
    left = np.ones(m, np.bool_)
    order: list[int] = []
    for _ in range(min(k, m)):
        gain = (1 - diversity) * relevance - (diversity * nearest if order else 0)
        best = int(np.where(left, gain, -np.inf).argmax())
        order.append(best)
        left[best] = False
        total, count = np.zeros(m, np.float32), np.zeros(m, np.float32)
        for vectors, known in zip(spaces, there, strict=True):
            if known[best]:
                total += vectors @ vectors[best]
                count += known
        nearest = np.maximum(nearest, total / np.maximum(count, 1))
    return np.array(order, np.int64)


def calibrate(
    scores: Floats, categories: Sequence[str | None], wanted: Mapping[str, float], k: int, calibration: float
) -> NDArray[np.int64]:
    """The order in which k of m items are taken, [k], by their scores [m] and so that categories [m] mix as `wanted`.

    `wanted` are the shares of categories, which sum to 1. `calibration` is between 0, by score alone, and 1.
    """
    names = sorted(wanted)
    place = {name: number for number, name in enumerate(names)}
    code = np.array([place.get(name, -1) if name is not None else -1 for name in categories])
    target = np.array([wanted[name] for name in names])
    relevance = _scaled(scores)
    counts, left = np.zeros(len(names)), np.ones(len(scores), np.bool_)
    order: list[int] = []
    for step in range(1, min(k, len(scores)) + 1):
        # What the divergence would be with one more of each category, and of none of them.
        mixes = np.concatenate([counts + np.eye(len(names)), counts[None]]) / step
        mixed = (1 - MIXED_IN) * mixes + MIXED_IN * target
        divergence = (target * np.log(target / mixed)).sum(1)  # [categories + 1]
        gain = (1 - calibration) * relevance - calibration * divergence[code]
        best = int(np.where(left, gain, -np.inf).argmax())
        order.append(best)
        left[best] = False
        if code[best] >= 0:
            counts[code[best]] += 1
    return np.array(order, np.int64)


def _scaled(scores: Floats) -> Floats:
    """Scores from 0 to 1 over the pool."""
    spread = float(scores.max() - scores.min()) if len(scores) else 0.0
    scaled: Floats = (scores - scores.min()) / spread if spread > 0 else np.ones(len(scores), np.float32)
    return scaled
