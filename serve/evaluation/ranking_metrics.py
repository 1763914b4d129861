"""Measures of ranked items: how good, how sure, how varied, how new."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Holdout
from embed.behaviour.ranking import hits, ndcg, recall, reciprocal_rank

K, DEEP = 10, 100
RESAMPLES = 1000
MEASURES = ("ndcg10", "recall10", "recall100", "mrr")


@dataclass(frozen=True)
class Measured:
    """Means over shoppers with the ends of their 95 % bootstrap interval; shares over all answers.

    `coverage` is the share of items that are in anybody's first ten, `novelty` the mean of -log2 of the share of
    shoppers that know an item shown there, `new_items` the share of items shown that nobody had known.
    """

    users: int
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    coverage: float
    novelty: float
    new_items: float


def measure(
    ranked: NDArray[np.int64], holdout: Holdout, shoppers_of: NDArray[np.int64], users: int, seed: int
) -> Measured:
    """Measure items ranked for m shoppers [m, DEEP], -1 for none; `shoppers_of` [items] had each item before."""
    found = hits(ranked, holdout)
    each = {
        "ndcg10": ndcg(found, holdout, K),
        "recall10": recall(found, holdout, K),
        "recall100": recall(found, holdout, DEEP),
        "mrr": reciprocal_rank(found),
    }
    shown = ranked[:, :K]
    shown = shown[shown >= 0]
    share = np.maximum(shoppers_of, 1)[shown] / max(1, users)
    return Measured(
        len(holdout),
        {name: _rounded(values.mean()) if len(values) else 0.0 for name, values in each.items()},
        {name: interval(values, seed) for name, values in each.items()},
        _rounded(len(np.unique(shown)) / max(1, len(shoppers_of))),
        _rounded(-np.log2(share).mean()) if len(shown) else 0.0,
        _rounded((shoppers_of[shown] == 0).mean()) if len(shown) else 0.0,
    )


def lift(ranked: NDArray[np.int64], over: NDArray[np.int64], holdout: Holdout, seed: int) -> tuple[float, float, float]:
    """NDCG@10 of items ranked for m shoppers [m, DEEP] less that of other ranks of theirs, and its 95 % interval."""
    difference = ndcg(hits(ranked, holdout), holdout, K) - ndcg(hits(over, holdout), holdout, K)
    return (_rounded(difference.mean()) if len(difference) else 0.0, *interval(difference, seed))


def interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of values [m] (Efron 1979)."""
    if not len(values):
        return (0.0, 0.0)
    random = np.random.default_rng(seed)
    means = [values[random.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return (_rounded(low), _rounded(high))


def _rounded(value: float) -> float:
    return round(float(value), 4)
