"""Fusion: one order out of the scores of several spaces.

Cosines of different spaces cannot be added: in one, unrelated things score 0.7, in another 0.1. Ranks can be
(reciprocal rank fusion), but they throw away by how much the first is better than the tenth. So each space's scores
are put into the same unit first: how many standard deviations above what this very query gives random items of this
catalogue (z-score normalisation over all items, or a fixed sample where search is approximate). Candidates are scored
exactly in every space that the query enters, also where that space had not proposed it; an item that a space does not
know counts as an average one. The fused score is the weighted mean. It depends on nothing but query and release, so
equal queries give equal answers.

Source: Fox & Shaw 1994 (combination of multiple searches) for adding normalised scores; Lee 1997 for why normalise.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def fuse(
    scores: Mapping[str, NDArray[np.float32]],
    backgrounds: Mapping[str, NDArray[np.float32]],
    weights: Mapping[str, float],
) -> NDArray[np.float32]:
    """One score for each of m candidates from their scores [m] in every space that a query enters.

    `backgrounds` are the scores that the query gives to items picked blindly, or to all. -inf stands for an item that
    is not in a space; one that is in none of them stays at -inf.
    """
    total = sum(weights[space] for space in scores)
    fused: NDArray[np.float32] = np.zeros(len(next(iter(scores.values()))), np.float32)
    nowhere = np.ones(len(fused), np.bool_)
    for space, of in scores.items():
        fused += standardised(of, backgrounds[space]) * np.float32(weights[space] / total)
        nowhere &= of == -np.inf
    fused[nowhere] = -np.inf
    return fused


def standardised(scores: NDArray[np.float32], background: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores [m] in standard deviations above the mean of a background; 0 for an item that is not in the space."""
    mean, spread = _mean_and_spread(background)
    even = scores.round(6)  # equal items differ by less, and would no longer tie
    even[scores == -np.inf] = mean
    return (even - np.float32(mean)) * np.float32(1 / spread)


def _mean_and_spread(scores: NDArray[np.float32]) -> tuple[float, float]:
    total = float(scores.sum())
    if total == -np.inf:
        scores = scores[scores > -np.inf]
        total = float(scores.sum())
    mean = total / max(1, len(scores))
    return mean, max(float(scores @ scores) / max(1, len(scores)) - mean * mean, 1e-12) ** 0.5
