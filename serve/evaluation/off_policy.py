"""Off-policy estimates: the reward that another release would have had on lists with known propensities.

Lists are sampled position by position (serve.recommend.ranking.exploration). The reward at a position is assumed to
depend on the items down to it, not on those below. So it is weighted by how much more probably the other release would
have shown just those items:

    w_j = product over positions l <= j of  p_other(item_l | before) / p_logged(item_l | before)

- **IPS** (McInerney et al., "Counterfactual Evaluation of Slate Recommendations with Sequential Reward Interactions",
  KDD 2020): mean over lists of sum_j w_j r_j. Unbiased, with a large variance.
- **SNIPS** (Swaminathan and Joachims, NeurIPS 2015): the same, divided at each position by the mean weight there.
- **DR**, doubly robust (Kiyohara et al., "Doubly Robust Off-Policy Evaluation for Ranking Policies under the Cascade
  Behavior Model", WSDM 2022): the reward that a model predicts for the other release's lists, corrected by
  weighted residuals. Unbiased where either the propensities or the model are right, with a small variance where the
  model is good. Its weights are divided by their mean too; otherwise few lists with large weights would dominate.

Intervals are 95 % bootstrap intervals over lists. The effective sample size is the number of equally weighted lists
that would be as informative.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class LoggedList:
    """A list of k positions.

    Attributes:
        logged: the probability of each item given those before it, under the release that showed it, [k].
        other: the same under the other release, [k].
        reward: the reward of each item, [k].
        predicted: the reward of each item that the model predicts, [k].
        expected: the reward that the model expects at each position of the other release, given the items before, [k].
    """

    logged: Doubles
    other: Doubles
    reward: Doubles
    predicted: Doubles
    expected: Doubles


@dataclass(frozen=True)
class Estimate:
    """The mean reward of a list, and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimates:
    """The logged reward, three estimates for the other release, and the number and effective number of lists."""

    lists: int
    effective: float
    logged: Estimate
    ips: Estimate
    snips: Estimate
    dr: Estimate


def estimate(lists: Sequence[LoggedList], seed: int = 0) -> Estimates:
    """Estimate the reward of the other release; raises ValueError without lists. All propensities must be known."""
    if not lists:
        raise ValueError("lists is empty: at least one list with known propensities is needed")
    padded, shares = _Padded(lists), _shares(len(lists), seed)
    last = padded.weights[:, -1]
    snips, dr = _normalised(padded.reward, padded.weights, shares), padded.doubly_robust(shares)
    return Estimates(
        len(lists),
        float(last.sum() ** 2 / max(float((last**2).sum()), 1e-300)),
        _estimate(padded.reward.sum(1), shares),
        _estimate((padded.weights * padded.reward).sum(1), shares),
        Estimate(snips[0], *_interval(snips[1])),
        Estimate(dr[0], *_interval(dr[1])),
    )


def estimate_gain(lists: Sequence[LoggedList], baseline: Sequence[LoggedList], seed: int = 0) -> Estimate:
    """Estimate by how much one release's reward exceeds that of another on the same n lists; doubly robust."""
    shares = _shares(len(lists), seed)
    ours, theirs = _Padded(lists).doubly_robust(shares), _Padded(baseline).doubly_robust(shares)
    return Estimate(ours[0] - theirs[0], *_interval(ours[1] - theirs[1]))


class _Padded:
    """Lists as arrays [n, longest list], zero after the end of a list."""

    def __init__(self, lists: Sequence[LoggedList]) -> None:
        shape = len(lists), max(len(each.reward) for each in lists)
        self.weights, self.before, self.reward, self._predicted, self._expected = (np.zeros(shape) for _ in range(5))
        for row, each in enumerate(lists):
            k = len(each.reward)
            self.weights[row, :k] = np.cumprod(each.other / each.logged)
            self.before[row, :k] = np.concatenate([[1.0], self.weights[row, : k - 1]])
            self.reward[row, :k], self._predicted[row, :k] = each.reward, each.predicted
            self._expected[row, :k] = each.expected

    def doubly_robust(self, shares: Doubles) -> tuple[float, Doubles]:
        """Return the estimate, and those of resampled lists, [draws]."""
        residual = _normalised(self.reward - self._predicted, self.weights, shares)
        model = _normalised(self._expected, self.before, shares)
        return residual[0] + model[0], residual[1] + model[1]


def _shares(count: int, seed: int) -> Doubles:
    """Return how often each of n lists is drawn when n are drawn with replacement, [draws, n]."""
    picks = np.random.default_rng(seed).integers(0, count, (DRAWS, count))
    return np.array([np.bincount(pick, minlength=count) for pick in picks], np.float64)


def _normalised(values: Doubles, weights: Doubles, shares: Doubles) -> tuple[float, Doubles]:
    """Return the sum over positions of weighted means over lists: of all, and of resampled lists, [draws]."""
    all_lists = ((weights * values).sum(0) / np.maximum(weights.sum(0), 1e-12)).sum()
    return float(all_lists), ((shares @ (weights * values)) / np.maximum(shares @ weights, 1e-12)).sum(1)


def _estimate(values: Doubles, shares: Doubles) -> Estimate:
    return Estimate(float(values.mean()), *_interval(shares @ values / len(values)))


def _interval(draws: Doubles) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
