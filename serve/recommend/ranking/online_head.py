"""The online head: by how much the scorer's probabilities are off, learned from what came of answers as it comes.

For each head a Bayesian linear regression on the scorer's last hidden layer x, of what happened less what was foretold:

    y - p = x . w + noise,   w ~ N(0, I / prior)   ->   precision A = prior I + sum c x x',   mean A^-1 sum c (y - p) x

An answer adds its items as if nothing came of them; whatever then comes of one adds x once more, as r is linear in y.
So the closed form is exact at every moment, with no window to wait for, and the order in which things arrive does not
matter: every process that reads the same log has the same head. The weight c of an answer halves for each half-life
since it was given, so that what is learned follows a drift; the prior stays.

Source: Li et al., "A Contextual-Bandit Approach to Personalized News Article Recommendation" (WWW 2010) for the ridge
form, Riquelme et al., "Deep Bayesian Bandits Showdown" (ICLR 2018) for a linear head over a network's last layer.
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
DAY = 86_400.0
NOISE = 0.05  # variance of an outcome before any is known
FARTHEST = 50.0  # half-lives after which weights are counted from another moment, long before they overflow


class Weights(NamedTuple):
    """Of each head the mean [heads, hidden + 1] and the deviation of its outcomes [heads]; `root` @ `root`' is the
    inverse of the precision that they share."""

    mean: Doubles
    noise: Doubles
    root: Doubles


class OnlineHead:
    """Learns as answers are given and things come of them; safe in several threads.

    `scale` [hidden] is the root of the mean square of each unit of the layer, in which x is measured. `prior` is in
    rows: after as many ordinary ones the head believes them half.
    """

    def __init__(self, heads: Sequence[str], scale: Floats, prior: float, half_life_days: float, now: float) -> None:
        self.heads, self._scale, self._prior = tuple(heads), scale, prior
        self._half_life, self._origin = half_life_days * DAY, now
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget all that was learned."""
        heads, size = len(self.heads), len(self._scale) + 1
        with self._lock:
            self._squares = np.zeros((size, size))
            self._sums = np.zeros((heads, size))
            # The sum of p (1 - p), as if the prior's rows had been seen.
            self._variance = np.full(heads, NOISE * self._prior)
            self._rows = self._prior
            self._at: tuple[float, Weights] | None = None

    def shown(self, hidden: Floats, probabilities: Floats, time: float) -> None:
        """n items were shown: their hidden layer [n, hidden], and each head's probability at their place [n, heads]."""
        x, likely = self._inputs(hidden), probabilities.astype(np.float64)
        with self._lock:
            weight = self._weight(time)
            self._squares += weight * (x.T @ x)
            self._sums -= weight * (likely.T @ x)
            self._variance += weight * (likely * (1 - likely)).sum(0)
            self._rows += weight * len(x)
            self._at = None

    def came(self, hidden: Floats, head: str, time: float) -> None:
        """Of an item shown at a moment something came: its hidden layer [hidden], and what."""
        with self._lock:
            self._sums[self.heads.index(head)] += self._weight(time) * self._inputs(hidden[None])[0]
            self._at = None

    def weights(self, now: float) -> Weights:
        """What is believed at a moment, to a thousandth of a half-life."""
        with self._lock:
            if self._at is None or abs(self._at[0] - now) > self._half_life / 1000:
                faded = 2 ** ((self._origin - now) / self._half_life)
                precision = self._prior * np.eye(len(self._squares)) + faded * self._squares
                root = np.linalg.inv(np.linalg.cholesky(precision)).T
                noise = np.sqrt(self._variance / self._rows)
                self._at = now, Weights((faded * self._sums) @ root @ root.T, noise, root)
            return self._at[1]

    def correction(self, hidden: Floats, now: float, random: np.random.Generator | None = None) -> Floats:
        """What to add to the probabilities of m items, [m, heads]; with `random` by a draw of what may be true."""
        mean, noise, root = self.weights(now)
        if random is not None:
            mean = mean + noise[:, None] * (random.normal(size=mean.shape) @ root.T)
        found: Floats = (self._inputs(hidden) @ mean.T).astype(np.float32)
        return found

    def _inputs(self, hidden: Floats) -> Doubles:
        return np.concatenate([hidden / self._scale, np.ones((len(hidden), 1))], 1)

    def _weight(self, time: float) -> float:
        if time - self._origin > FARTHEST * self._half_life:
            faded = 2 ** ((self._origin - time) / self._half_life)
            self._squares *= faded
            self._sums *= faded
            self._variance *= faded
            self._rows *= faded
            self._origin = time
        return float(2 ** ((time - self._origin) / self._half_life))
