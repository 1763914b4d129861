"""Fusion: one order out of the scores of several spaces.

Cosines of different spaces cannot be added: in one, unrelated things score 0.7, in another 0.1. Ranks can be
(reciprocal rank fusion), but they throw away by how much the first is better than the tenth. So each space's scores
are put into the same unit first: how many standard deviations above what this very query gives random items of this
catalogue (z-score normalisation, with a fixed sample of items as the background). Every candidate is scored exactly
in every space that the query enters, also where that space had not proposed it; an item that a space does not know
counts as an average one. The fused score is the weighted mean. It depends on nothing but query and release, so equal
queries give equal answers.

Source: Fox & Shaw 1994 (combination of multiple searches) for adding normalised scores; Lee 1997 for why normalise.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from index.exact import ExactIndex
from index.space import Vectors

BACKGROUND = 256


class Background:
    """A fixed sample of a space's rows; tells what score a query gives to an item picked blindly."""

    def __init__(self, index: ExactIndex, seed: int = 0) -> None:
        rows = np.random.default_rng(seed).permutation(len(index.vectors))[:BACKGROUND]
        self._sample: Vectors = np.ascontiguousarray(index.vectors[np.sort(rows)])

    def of(self, query: NDArray[np.float32]) -> tuple[float, float]:
        """Mean and standard deviation of the scores that unit `query` [dim] gives the sample."""
        sample = self._sample @ query
        mean = float(sample.sum()) / max(1, len(sample))
        # A spread below 0.001 is that of a space whose items are all alike: rounding, not to be blown up.
        return mean, max(float(sample @ sample) / max(1, len(sample)) - mean * mean, 1e-6) ** 0.5


def fuse(
    queries: Mapping[str, NDArray[np.float32]],
    scores: Mapping[str, NDArray[np.float32]],
    backgrounds: Mapping[str, Background],
    weights: Mapping[str, float],
) -> NDArray[np.float32]:
    """One score for each of m candidates from their scores [m] in every space that a query enters.

    -inf stands for an item that is not in a space; one that is in none of them stays at -inf. With a single space the
    score is that space's own.
    """
    if len(queries) == 1:
        return next(iter(scores.values())).copy()
    total = sum(weights[space] for space in queries)
    fused: NDArray[np.float32] = np.zeros(len(next(iter(scores.values()))), np.float32)
    nowhere = np.ones(len(fused), np.bool_)
    for space, query in queries.items():
        mean, spread = backgrounds[space].of(query)
        absent = scores[space] == -np.inf
        even = np.round(scores[space], 6)  # equal items differ by less, and would no longer tie
        fused += np.where(absent, 0, (even - np.float32(mean)) * np.float32(weights[space] / total / spread))
        nowhere &= absent
    fused[nowhere] = -np.inf
    return fused
