"""Category calibration: lists that mix categories as the user's history does.

Steck, "Calibrated Recommendations" (RecSys 2018): the next item is the one with the largest gain

    (1 - c) * relevance - c * KL(p || q)

where p are the shares of categories in the history and q those of the list with the item. A little of p is mixed into
q, so that no share is 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.recommend.ranking.diversity import scale_relevance
from serve.recommend.retrieval.retriever import Items
from serve.recommend.retrieval.user_history import UserHistory

PRIOR_SHARE = 0.01  # of the history's shares in those of a list


@dataclass(frozen=True)
class CategoryCalibration:
    """How closely lists keep to the categories of the history (0 to 1), and what the categories of items are."""

    strength: float
    category_of: Callable[[Items], Sequence[str | None]]

    def history_shares(self, user: UserHistory) -> dict[str, float]:
        """Return the shares of categories among the liked items of a history; empty without any."""
        shares: dict[str, float] = {}
        liked = user.weight > 0
        for category, weight in zip(self.category_of(user.item[liked]), user.weight[liked].tolist(), strict=True):
            if category:
                shares[category] = shares.get(category, 0.0) + weight
        total = sum(shares.values())
        return {category: weight / total for category, weight in shares.items()}


def calibrate(
    scores: NDArray[np.float32],
    categories: Sequence[str | None],
    target_shares: Mapping[str, float],
    k: int,
    strength: float,
) -> NDArray[np.int64]:
    """Choose k of m items one by one, and return their order [k].

    Args:
        scores: [m].
        categories: The category of each item, [m].
        target_shares: The shares of categories to reach; they sum to 1.
        k: The number of items.
        strength: From 0, by score alone, to 1.
    """
    names = sorted(target_shares)
    number_of = {name: number for number, name in enumerate(names)}
    code = np.array([number_of.get(name, -1) if name is not None else -1 for name in categories])
    target = np.array([target_shares[name] for name in names])
    relevance = scale_relevance(scores)
    counts, available = np.zeros(len(names)), np.ones(len(scores), np.bool_)
    order: list[int] = []
    for step in range(1, min(k, len(scores)) + 1):
        # The divergence with one more item of each category, and with one of no category.
        shares = np.concatenate([counts + np.eye(len(names)), counts[None]]) / step
        smoothed = (1 - PRIOR_SHARE) * shares + PRIOR_SHARE * target
        divergence = (target * np.log(target / smoothed)).sum(1)  # [categories + 1]
        gain = (1 - strength) * relevance - strength * divergence[code]
        best = int(np.where(available, gain, -np.inf).argmax())
        order.append(best)
        available[best] = False
        if code[best] >= 0:
            counts[code[best]] += 1
    return np.array(order, np.int64)
