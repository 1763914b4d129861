"""The online head: corrects the scorer's probabilities between trainings, from the outcomes of shown items.

For each head it is a Bayesian linear regression on the scorer's last hidden layer x, of outcome minus prediction:

    y - p = x . w + noise,   w ~ N(0, I / prior)   ->   precision A = prior I + sum c x x',   mean A^-1 sum c (y - p) x

A response adds its items as if none had an outcome. A later outcome adds x once more, as the sum is linear in y. The
closed form is therefore exact at any time, without a window to wait for, and independent of the order of arrival: all
processes that read the same log have the same head. The weight c of a response halves with each half-life of age, so
that the head follows drift; the prior stays.

Source: Li et al., "A Contextual-Bandit Approach to Personalized News Article Recommendation" (WWW 2010) for the ridge
form, Riquelme et al., "Deep Bayesian Bandits Showdown" (ICLR 2018) for a linear head over a network's last layer.
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serve.core.units import DAY

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
NOISE = 0.05  # variance of an outcome, before any outcome is known
REBASE_AFTER = 50.0  # half-lives after which weights are relative to a later time, long before they overflow


class HeadWeights(NamedTuple):
    """The weights' distribution: `mean` [heads, hidden + 1], and the standard deviation `noise` [heads] of outcomes.

    `root` @ `root`' is the inverse of the precision, which all heads share.
    """

    mean: Doubles
    noise: Doubles
    root: Doubles


class OnlineHead:
    """Learns from responses and their outcomes as they arrive; safe in several threads.

    `scale` [hidden] is the root mean square of each unit of the layer, by which x is divided. `prior` is in rows: after
    that many, data and prior have the same weight.
    """

    def __init__(self, heads: Sequence[str], scale: Floats, prior: float, half_life_days: float, now: float) -> None:
        self.heads, self._scale, self._prior = tuple(heads), scale, prior
        self._half_life, self._origin = half_life_days * DAY, now
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        heads, size = len(self.heads), len(self._scale) + 1
        with self._lock:
            self._squares = np.zeros((size, size))
            self._sums = np.zeros((heads, size))
            # The sum of p (1 - p), as if the rows of the prior had been shown.
            self._variance = np.full(heads, NOISE * self._prior)
            self._rows = self._prior
            self._at: tuple[float, HeadWeights] | None = None

    def record_shown(self, hidden: Floats, probabilities: Floats, time: float) -> None:
        """Record n shown items: hidden layer [n, hidden] and probabilities at their positions [n, heads]."""
        x, predicted = self._inputs(hidden), probabilities.astype(np.float64)
        with self._lock:
            weight = self._weight(time)
            self._squares += weight * (x.T @ x)
            self._sums -= weight * (predicted.T @ x)
            self._variance += weight * (predicted * (1 - predicted)).sum(0)
            self._rows += weight * len(x)
            self._at = None

    def record_outcome(self, hidden: Floats, head: str, time: float) -> None:
        """Record an outcome of an item that was shown at a time, by its hidden layer [hidden]."""
        with self._lock:
            self._sums[self.heads.index(head)] += self._weight(time) * self._inputs(hidden[None])[0]
            self._at = None

    def weights(self, now: float) -> HeadWeights:
        """Return the weights at a time, exact to a thousandth of a half-life."""
        with self._lock:
            if self._at is None or abs(self._at[0] - now) > self._half_life / 1000:
                faded = 2 ** ((self._origin - now) / self._half_life)
                precision = self._prior * np.eye(len(self._squares)) + faded * self._squares
                root = np.linalg.inv(np.linalg.cholesky(precision)).T
                noise = np.sqrt(self._variance / self._rows)
                self._at = now, HeadWeights((faded * self._sums) @ root @ root.T, noise, root)
            return self._at[1]

    def correction(self, hidden: Floats, now: float, random: np.random.Generator | None = None) -> Floats:
        """Return what to add to the probabilities of m items, [m, heads]; with `random`, by a sample of the weights."""
        mean, noise, root = self.weights(now)
        if random is not None:
            mean = mean + noise[:, None] * (random.normal(size=mean.shape) @ root.T)
        correction: Floats = (self._inputs(hidden) @ mean.T).astype(np.float32)
        return correction

    def _inputs(self, hidden: Floats) -> Doubles:
        return np.concatenate([hidden / self._scale, np.ones((len(hidden), 1))], 1)

    def _weight(self, time: float) -> float:
        if time - self._origin > REBASE_AFTER * self._half_life:
            faded = 2 ** ((self._origin - time) / self._half_life)
            self._squares *= faded
            self._sums *= faded
            self._variance *= faded
            self._rows *= faded
            self._origin = time
        return float(2 ** ((time - self._origin) / self._half_life))
