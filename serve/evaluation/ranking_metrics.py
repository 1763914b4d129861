"""Metrics of rankings: quality with intervals, coverage and novelty."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Holdout
from embed.behaviour.holdout_metrics import hits, ndcg, recall, reciprocal_rank

K, DEEP = 10, 100
RESAMPLES = 1000
METRICS = ("ndcg10", "recall10", "recall100", "mrr")


@dataclass(frozen=True)
class RankingMetrics:
    """Means over users, the ends of their 95 % bootstrap intervals, and shares over all recommended items.

    `coverage` is the share of the catalogue in the first ten items of any user, `novelty` the mean of -log2 of the
    share of users who interacted with an item there, `new_items` the share of items there without interactions.
    """

    users: int
    means: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    coverage: float
    novelty: float
    new_items: float


def measure_ranking(
    ranked: NDArray[np.int64], holdout: Holdout, item_users: NDArray[np.int64], users: int, seed: int
) -> RankingMetrics:
    """Measure rankings on held-out interactions.

    Args:
        ranked: item indices for m users [m, DEEP], -1 for none.
        holdout: the held-out interactions of the m users.
        item_users: how many users interacted with each item before, [items].
        users: how many users interacted before.
        seed: the seed of the bootstrap.
    """
    found = hits(ranked, holdout)
    by_user = {
        "ndcg10": ndcg(found, holdout, K),
        "recall10": recall(found, holdout, K),
        "recall100": recall(found, holdout, DEEP),
        "mrr": reciprocal_rank(found),
    }
    items = ranked[:, :K]
    items = items[items >= 0]
    share = np.maximum(item_users, 1)[items] / max(1, users)
    return RankingMetrics(
        len(holdout),
        {name: _rounded(values.mean()) if len(values) else 0.0 for name, values in by_user.items()},
        {name: bootstrap_interval(values, seed) for name, values in by_user.items()},
        _rounded(len(np.unique(items)) / max(1, len(item_users))),
        _rounded(-np.log2(share).mean()) if len(items) else 0.0,
        _rounded((item_users[items] == 0).mean()) if len(items) else 0.0,
    )


def ndcg_lift(
    ranked: NDArray[np.int64], baseline: NDArray[np.int64], holdout: Holdout, seed: int
) -> tuple[float, float, float]:
    """Return by how much NDCG@10 of rankings exceeds that of a baseline, and its 95 % interval.

    Args:
        ranked: item indices for m users [m, DEEP], -1 for none.
        baseline: the rankings of the baseline, [m, DEEP].
        holdout: the held-out interactions of the m users.
        seed: the seed of the bootstrap.
    """
    difference = ndcg(hits(ranked, holdout), holdout, K) - ndcg(hits(baseline, holdout), holdout, K)
    return (_rounded(difference.mean()) if len(difference) else 0.0, *bootstrap_interval(difference, seed))


def bootstrap_interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of values [m] (Efron 1979)."""
    if not len(values):
        return (0.0, 0.0)
    random = np.random.default_rng(seed)
    means = [values[random.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return (_rounded(low), _rounded(high))


def _rounded(value: float) -> float:
    return round(float(value), 4)
