"""Diversity: lists whose items are not too much alike.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): the next item is the one with the largest gain

    (1 - d) * relevance - d * likeness to the most similar chosen item

with relevance scaled to 0 to 1 over the pool, and likeness the mean cosine over the spaces that have both items.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class DiverseOrder(NamedTuple):
    """The order [k] in which items are chosen, and the gain [m] of each of the m items.

    The gain is that at which an item was chosen, or for the others the one left at the end. Sorted by gain, the chosen
    items keep their order: a later stage can take the gain for relevance.
    """

    order: NDArray[np.int64]
    gains: Floats


def diversify(scores: Floats, spaces: Sequence[Floats], k: int, diversity: float) -> DiverseOrder:
    """Choose k of m items one by one.

    Args:
        scores: [m].
        spaces: In each space the unit vectors of the items, [m, dim]; zero for an item without a vector.
        k: The number of items.
        diversity: From 0, by score alone, to 1.
    """
    m, relevance = len(scores), scale_relevance(scores)
    has_vector = [np.asarray((vectors != 0).any(axis=1)) for vectors in spaces]
    likeness = np.full(m, -1.0, np.float32)  # to the most similar chosen item
    gain, gains = (1 - diversity) * relevance, np.zeros(m, np.float32)
    available = np.ones(m, np.bool_)
    order: list[int] = []
    last = np.inf
    for _ in range(min(k, m)):
        best = int(np.where(available, gain, -np.inf).argmax())
        order.append(best)
        available[best] = False
        gains[best] = last = min(last, float(gain[best]))
        total, count = np.zeros(m, np.float32), np.zeros(m, np.float32)
        for vectors, known in zip(spaces, has_vector, strict=True):
            if known[best]:
                total += vectors @ vectors[best]
                count += known
        likeness = np.maximum(likeness, total / np.maximum(count, 1))
        gain = (1 - diversity) * relevance - diversity * likeness
    gains[available] = np.minimum(gain[available], last)
    return DiverseOrder(np.array(order, np.int64), gains)


def scale_relevance(scores: Floats) -> Floats:
    """Scale the scores of a pool to 0 to 1; all are 1 if they are equal."""
    width = float(scores.max() - scores.min()) if len(scores) else 0.0
    scaled: Floats = (scores - scores.min()) / width if width > 0 else np.ones(len(scores), np.float32)
    return scaled
