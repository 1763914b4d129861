"""Exploration: showing what is not quite the best by what is known, so that more is known tomorrow.

**Plackett-Luce**: the list is drawn place by place, each item with a probability in proportion to score ** (1 / T)
among those left (Plackett 1975). How likely each was at its place, given those before it, is exact and goes into the
log, so that other orders can be judged by what came of this one. Only items whose score is at least `floor` times that
of the k-th best take part: that is the most that exploring may cost.

**Thompson sampling**: the scorer's order, by a draw of what its probabilities may be (Thompson 1933; see
serve.recommend.ranking.online_head). Its propensities are not known.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Policy = Literal["plackett_luce", "thompson"]
WIDEST = 5  # times as many as are asked for may take part


@dataclass(frozen=True)
class Exploration:
    """How one answer explores; `random` decides it."""

    policy: Policy
    random: np.random.Generator
    temperature: float = 0.2
    floor: float = 0.8

    def order(self, scores: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
        """A drawn order of k of m items, by their scores [m] in falling order, and how likely each was at its place."""
        part = taking_part(scores, k, self.floor)
        keys = _logits(scores[:part], self.temperature) + self.random.gumbel(size=part)
        order = np.argsort(-keys, kind="stable")[:k]
        return order, propensities(scores[:part], order, self.temperature)


def taking_part(scores: Floats, k: int, floor: float) -> int:
    """How many of m items, by their scores [m] in falling order, take part in a drawn list of k."""
    if len(scores) <= k:
        return len(scores)
    return min(int(np.count_nonzero(scores >= floor * scores[k - 1])), WIDEST * k)


def propensities(scores: Floats, order: NDArray[np.int64], temperature: float) -> Floats:
    """How likely each item of an order [k] is at its place, given those before it, [k]; by the scores [m] of all."""
    logits = _logits(scores, temperature)
    weights = np.exp(logits - logits.max()) if len(logits) else logits
    chosen = weights[order]
    # From the end, as what is left is small beside what was taken.
    left = np.delete(weights, order).sum() + np.cumsum(chosen[::-1])[::-1]
    found: Floats = (chosen / np.maximum(left, 1e-300)).astype(np.float32)
    return found


def _logits(scores: Floats, temperature: float) -> NDArray[np.float64]:
    return np.log(np.maximum(scores.astype(np.float64), 1e-9)) / temperature
