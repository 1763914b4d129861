"""Quotas: shares of the positions of a list that are reserved for some items."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.recommend.retrieval.candidates import Candidates
from serve.recommend.retrieval.retriever import Scores


@dataclass(frozen=True)
class LongTailQuota:
    """A share of the positions is for long-tail items: those whose popularity is below `below`."""

    share: float
    below: float

    @classmethod
    def from_popularity(cls, popularity: Scores, share: float) -> "LongTailQuota | None":
        """Put the limit at the most popular items that have half of all demand, by the popularity [items] of all.

        None for a share of 0, and if no item is popular.
        """
        falling = -np.sort(-popularity)
        total = float(falling.sum())
        if not share or total <= 0:
            return None
        return cls(share, float(falling[int(np.searchsorted(np.cumsum(falling), total / 2))]))

    def mask(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Return which of m candidates are long-tail items, [m]."""
        popularity = candidates.scores.get("popularity")
        return np.zeros(len(candidates), np.bool_) if popularity is None else popularity < self.below


def apply_quota(reserved: NDArray[np.bool_], share: float, k: int) -> NDArray[np.int64]:
    """Return the order [at most k] of m items, best first, that fills a share of the positions with `reserved` ones.

    Among the first p positions at least the part `share` is reserved [m], as long as there are such items. An item that
    is already high enough keeps its position; otherwise the next reserved one moves up to the position that is due.
    """
    order = []
    reserved_items, others = np.flatnonzero(reserved).tolist(), np.flatnonzero(~reserved).tolist()
    filled = 0
    for position in range(1, min(k, len(reserved)) + 1):
        is_due = filled < int(position * share + 1e-9)
        if reserved_items and (is_due or not others or reserved_items[0] < others[0]):
            order.append(reserved_items.pop(0))
            filled += 1
        else:
            order.append(others.pop(0))
    return np.array(order, np.int64)
