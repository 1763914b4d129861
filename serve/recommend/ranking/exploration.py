"""Exploration: showing items that are not quite the best by what is known, to learn more about them.

**Plackett-Luce**: the list is drawn position by position, each item with a probability proportional to
score ** (1 / T) among those left (Plackett 1975). The probability of each item at its position, given those before it,
is exact and goes into the log, so that other orders can be evaluated on the outcomes of this one. Only items whose
score is at least `floor` times that of the k-th best are eligible: that bounds the cost of exploring.

**Thompson sampling**: the scorer's order, by a sample of what its probabilities may be (Thompson 1933; see
serve.recommend.ranking.online_head). Its propensities are unknown.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Policy = Literal["plackett_luce", "thompson"]
MAX_ELIGIBLE = 5  # times k items can be drawn at most


@dataclass(frozen=True)
class Exploration:
    """How one request explores; `random` is its source of randomness."""

    policy: Policy
    random: np.random.Generator
    temperature: float = 0.2
    floor: float = 0.8

    def draw(self, scores: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
        """Draw an order of k of m items by their scores [m], which are in falling order.

        Returns the order [k], and the probability [k] of each item at its position.
        """
        eligible = count_eligible(scores, k, self.floor)
        keys = _logits(scores[:eligible], self.temperature) + self.random.gumbel(size=eligible)
        order = np.argsort(-keys, kind="stable")[:k]
        return order, compute_propensities(scores[:eligible], order, self.temperature)


def count_eligible(scores: Floats, k: int, floor: float) -> int:
    """Count which of m items, by their scores [m] in falling order, can be drawn into a list of k."""
    if len(scores) <= k:
        return len(scores)
    return min(int(np.count_nonzero(scores >= floor * scores[k - 1])), MAX_ELIGIBLE * k)


def compute_propensities(scores: Floats, order: NDArray[np.int64], temperature: float) -> Floats:
    """Return the probability of each item of an order [k] at its position, [k], by the scores [m] of all items."""
    logits = _logits(scores, temperature)
    weights = np.exp(logits - logits.max()) if len(logits) else logits
    chosen = weights[order]
    # Summed from the end, as the rest is small beside what was chosen first.
    left = np.delete(weights, order).sum() + np.cumsum(chosen[::-1])[::-1]
    probability: Floats = (chosen / np.maximum(left, 1e-300)).astype(np.float32)
    return probability


def _logits(scores: Floats, temperature: float) -> NDArray[np.float64]:
    return np.log(np.maximum(scores.astype(np.float64), 1e-9)) / temperature
