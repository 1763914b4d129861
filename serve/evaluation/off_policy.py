"""Off-policy estimates: what another release would have earned on lists that were drawn with known propensities.

Lists are drawn place by place (serve.recommend.ranking.exploration). Reward at a place is taken to depend on the
items down to it, not
on those below, so that it is weighted by how much likelier the other release is to have shown just those:

    w_j = product over places l <= j of  p_other(item_l | before) / p_logged(item_l | before)

- **IPS** (McInerney et al., "Counterfactual Evaluation of Slate Recommendations with Sequential Reward Interactions",
  KDD 2020): mean over lists of sum_j w_j r_j. Right on average, of large variance.
- **SNIPS** (Swaminathan and Joachims, NeurIPS 2015): the same, by place divided by the mean weight there.
- **DR**, doubly robust (Kiyohara et al., "Doubly Robust Off-Policy Evaluation for Ranking Policies under the Cascade
  Behavior Model", WSDM 2022): what a model foretells of the other release's lists, corrected by weighted surprises.
  Right where either propensities or model are, and of small variance where the model is good. Its weights are divided
  by their mean too, without which few lists with large weights decide all.

Intervals are 95 % by the bootstrap over lists. The effective sample size says how many lists the weights amount to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
DRAWS = 2000


@dataclass(frozen=True)
class LoggedList:
    """A list of k places: `logged` [k] and `other` [k] are how likely each item was there given those before, under the
    release that showed it and the other one; `reward` [k] is what came of it. `predicted` [k] is what the model expects
    of it, and `expected` [k] what it expects at that place of the other release, given the items before."""

    logged: Doubles
    other: Doubles
    reward: Doubles
    predicted: Doubles
    expected: Doubles


@dataclass(frozen=True)
class Estimate:
    """Of a reward a list: the mean and its 95 % interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimates:
    """What was earned, what the other release would have by three estimators, and by how many lists that is known."""

    lists: int
    effective: float
    logged: Estimate
    ips: Estimate
    snips: Estimate
    dr: Estimate


def estimate(lists: Sequence[LoggedList], seed: int = 0) -> Estimates:
    """Raises ValueError without a list; those of unknown propensities must be left out before."""
    if not lists:
        raise ValueError("there is no list with known propensities")
    padded, shares = _Padded(lists), _shares(len(lists), seed)
    last = padded.weights[:, -1]
    snips, dr = _normalised(padded.reward, padded.weights, shares), padded.doubly_robust(shares)
    return Estimates(
        len(lists),
        float(last.sum() ** 2 / max(float((last**2).sum()), 1e-300)),
        _of(padded.reward.sum(1), shares),
        _of((padded.weights * padded.reward).sum(1), shares),
        Estimate(snips[0], *_interval(snips[1])),
        Estimate(dr[0], *_interval(dr[1])),
    )


def gain(lists: Sequence[LoggedList], over: Sequence[LoggedList], seed: int = 0) -> Estimate:
    """By how much one release would earn more than another: both are asked for the same n lists; doubly robust."""
    shares = _shares(len(lists), seed)
    ours, theirs = _Padded(lists).doubly_robust(shares), _Padded(over).doubly_robust(shares)
    return Estimate(ours[0] - theirs[0], *_interval(ours[1] - theirs[1]))


class _Padded:
    """Lists as arrays [n, longest list], zero where they have ended."""

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
        """The estimate, and those of resampled lists, [draws]."""
        surprise = _normalised(self.reward - self._predicted, self.weights, shares)
        model = _normalised(self._expected, self.before, shares)
        return surprise[0] + model[0], surprise[1] + model[1]


def _shares(count: int, seed: int) -> Doubles:
    """How often each of n lists comes when as many are drawn with replacement, [draws, n]."""
    picks = np.random.default_rng(seed).integers(0, count, (DRAWS, count))
    return np.array([np.bincount(pick, minlength=count) for pick in picks], np.float64)


def _normalised(values: Doubles, weights: Doubles, shares: Doubles) -> tuple[float, Doubles]:
    """The sum over places of weighted means over lists: of all lists, and by `shares` [draws, lists] of them."""
    once = ((weights * values).sum(0) / np.maximum(weights.sum(0), 1e-12)).sum()
    return float(once), ((shares @ (weights * values)) / np.maximum(shares @ weights, 1e-12)).sum(1)


def _of(values: Doubles, shares: Doubles) -> Estimate:
    return Estimate(float(values.mean()), *_interval(shares @ values / len(values)))


def _interval(draws: Doubles) -> tuple[float, float]:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
