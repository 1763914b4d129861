"""Ranking metrics: how well ordered items hold what a shopper went on to like.

All items are ranked, never a sample of them (Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD
2020).
"""

import numpy as np
from numpy.typing import NDArray

from embed.behaviour.splits import Holdout


def hits(ranked: NDArray[np.int64], holdout: Holdout) -> NDArray[np.bool_]:
    """Which of the items ranked for each of m shoppers, best first [m, k] and -1 for none, are targets, [m, k]."""
    stride = holdout.history.items + 1
    user = np.repeat(np.arange(len(holdout)), np.diff(holdout.starts))
    found: NDArray[np.bool_] = np.isin(
        np.arange(len(holdout))[:, None] * stride + ranked + 1, user * stride + holdout.targets + 1
    )
    return found & (ranked >= 0)


def recall(hit: NDArray[np.bool_], holdout: Holdout, k: int) -> NDArray[np.float64]:
    """Of each shopper's targets, the share among the first k, [m]."""
    return np.asarray(hit[:, :k].sum(1) / np.diff(holdout.starts))


def ndcg(hit: NDArray[np.bool_], holdout: Holdout, k: int) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain of the first k, gains 0 and 1, [m] (Järvelin and Kekäläinen 2002)."""
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0], np.cumsum(discounts)])[np.diff(holdout.starts).clip(max=k)]
    return np.asarray((hit[:, :k] * discounts[: hit.shape[1]]).sum(1) / ideal)


def reciprocal_rank(hit: NDArray[np.bool_]) -> NDArray[np.float64]:
    """One over the place of the first target, 0 where there is none among the ranked, [m]."""
    return np.where(hit.any(1), 1 / (hit.argmax(1) + 1.0), 0.0)
