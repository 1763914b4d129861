"""Fusion: one order from the scores of several spaces.

Cosines of different spaces cannot be added: in one space unrelated items score 0.7, in another 0.1. Ranks can be added
(reciprocal rank fusion), but they lose by how much the first is better than the tenth. So the scores of each space are
first put into the same unit: standard deviations above the scores that this query gives to random items of the
catalogue (z-score normalisation over all items, or over a fixed sample if search is approximate). Candidates are scored
exactly in every space of the query, also where that space did not propose them; an item that is not in a space counts
as average there. The fused score is the weighted mean. It depends only on query and release.

Source: Fox & Shaw 1994 (combination of multiple searches) for adding normalised scores; Lee 1997 for the reasons to
normalise.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def fuse(
    scores: Mapping[str, NDArray[np.float32]],
    backgrounds: Mapping[str, NDArray[np.float32]],
    weights: Mapping[str, float],
) -> NDArray[np.float32]:
    """Return one score for each of m candidates from their scores [m] in every space of a query.

    `backgrounds` are the scores of random items, or of all items. -inf stands for an item that is not in a space; an
    item that is in no space keeps -inf.
    """
    total = sum(weights[space] for space in scores)
    fused: NDArray[np.float32] = np.zeros(len(next(iter(scores.values()))), np.float32)
    nowhere = np.ones(len(fused), np.bool_)
    for space, values in scores.items():
        fused += standardise(values, backgrounds[space]) * np.float32(weights[space] / total)
        nowhere &= values == -np.inf
    fused[nowhere] = -np.inf
    return fused


def standardise(scores: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores [m] in standard deviations above the mean of a background; 0 for an item that has no vector."""
    mean, deviation = _mean_and_deviation(background)
    rounded = scores.round(6)  # equal items differ by less, and must tie
    rounded[scores == -np.inf] = mean
    return (rounded - np.float32(mean)) * np.float32(1 / deviation)


def _mean_and_deviation(scores: NDArray[np.float32]) -> tuple[float, float]:
    total = float(scores.sum())
    if total == -np.inf:
        scores = scores[scores > -np.inf]
        total = float(scores.sum())
    mean = total / max(1, len(scores))
    return mean, max(float(scores @ scores) / max(1, len(scores)) - mean * mean, 1e-12) ** 0.5
