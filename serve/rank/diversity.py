"""Diversity: lists in which no item is only more of the same.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next item is the one of the greatest

    (1 - d) * relevance - d * likeness to the most alike of those already chosen

with relevance scaled to 0 to 1 over the pool, and likeness the mean cosine over the spaces that both items are in.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def diversify(scores: Floats, spaces: Sequence[Floats], k: int, diversity: float) -> NDArray[np.int64]:
    """The order in which k of m items are taken, [k], by their scores [m] and their vectors in each space [m, dim].

    Vectors are unit or, for an item that is not in a space, zero. `diversity` is between 0, by score alone, and 1.
    """
    m = len(scores)
    spread = float(scores.max() - scores.min()) if m else 0.0
    relevance = (scores - scores.min()) / spread if spread > 0 else np.ones(m, np.float32)
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
