"""Ranking metrics on held-out data: how high the items that a user liked later are ranked.

All items are ranked, never a sample of them (Krichene and Rendle, "On Sampled Metrics for Item Recommendation", KDD
2020).
"""

import numpy as np
from numpy.typing import NDArray

from embed.behaviour.splits import Holdout


def hits(ranked: NDArray[np.int64], holdout: Holdout) -> NDArray[np.bool_]:
    """Return which ranked items of m users, best first [m, k] and -1 for none, are targets, [m, k]."""
    stride = holdout.history.items + 1
    user = np.repeat(np.arange(len(holdout)), np.diff(holdout.starts))
    is_target: NDArray[np.bool_] = np.isin(
        np.arange(len(holdout))[:, None] * stride + ranked + 1, user * stride + holdout.targets + 1
    )
    return is_target & (ranked >= 0)


def recall(hit: NDArray[np.bool_], holdout: Holdout, k: int) -> NDArray[np.float64]:
    """Return the share of each user's targets among the first k, [m]."""
    return np.asarray(hit[:, :k].sum(1) / np.diff(holdout.starts))


def ndcg(hit: NDArray[np.bool_], holdout: Holdout, k: int) -> NDArray[np.float64]:
    """Return the normalised discounted cumulative gain of the first k, [m] (Järvelin and Kekäläinen 2002).

    Gains are 0 and 1.
    """
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0], np.cumsum(discounts)])[np.diff(holdout.starts).clip(max=k)]
    return np.asarray((hit[:, :k] * discounts[: hit.shape[1]]).sum(1) / ideal)


def reciprocal_rank(hit: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return one over the rank of the first target, 0 without a target among the ranked items, [m]."""
    return np.where(hit.any(1), 1 / (hit.argmax(1) + 1.0), 0.0)
