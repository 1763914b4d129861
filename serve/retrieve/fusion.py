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

from index.exact import ExactIndex, ItemScores
from index.space import Vectors

BACKGROUND = 512


class Background:
    """A fixed sample of a space's rows; tells what score a query gives to an item picked blindly."""

    def __init__(self, index: ExactIndex, seed: int = 0) -> None:
        rows = np.random.default_rng(seed).permutation(len(index.vectors))[:BACKGROUND]
        self._sample: Vectors = np.ascontiguousarray(index.vectors[np.sort(rows)])

    def standardise(self, query: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [m] of unit `query` [dim] as standard deviations above a random item; -inf (not in the space) as 0."""
        sample = self._sample @ query
        spread = max(float(sample.std()), 1e-6)
        standard = (scores - float(sample.mean())) / spread
        return np.where(np.isfinite(scores), standard, np.float32(0)).astype(np.float32)


def fuse(
    queries: Mapping[str, NDArray[np.float32]],
    scores: Mapping[str, ItemScores],
    backgrounds: Mapping[str, Background],
    weights: Mapping[str, float],
) -> NDArray[np.float32]:
    """Fused scores [m] of m candidates from their scores in each space that the query enters."""
    total = sum(weights[space] for space in queries)
    standard = (
        weights[space] * backgrounds[space].standardise(query, scores[space].scores) for space, query in queries.items()
    )
    fused: NDArray[np.float32] = np.sum(list(standard), axis=0) / np.float32(total)
    return fused
