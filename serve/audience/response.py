"""How likely a shopper is to act on an item: by how near they are in the tower space, and how much the shopper does.

Learned from the last fifth of what each shopper did, by what was known before it: a logistic model of the cosine, the
logarithm of how often the shopper acted, and both together. Of who did not act some are drawn, and weighed as all there
are, so that the model's figures are those of one item among all shoppers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from embed.behaviour import Interactions
from embed.towers.trained import TrainedTowers

EARLY = 0.8  # of what a shopper did, by which the rest is foretold
DRAWN = 20  # shoppers who did not act, for each who did
MOST_ACTS = 20_000
FEWEST_ACTS = 20
SEED = 0


@dataclass(frozen=True)
class Response:
    """Coefficients [3] of the standardised parts, which have `means` [3] and `spreads` [3], and the constant."""

    coefficients: NDArray[np.float64]
    constant: float
    means: NDArray[np.float64]
    spreads: NDArray[np.float64]

    def chances(self, cosines: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """The probability [m] that each of m shoppers acts, by cosines [m] and how often each acted [m]."""
        parts = (_parts(cosines, counts) - self.means) / self.spreads
        chances: NDArray[np.float64] = 1 / (1 + np.exp(-(parts @ self.coefficients + self.constant)))
        return chances


def fit_response(towers: TrainedTowers, items: NDArray[np.float32], interactions: Interactions) -> Response:
    """Learn it from the interactions of m shoppers with items of vectors [n, width]."""
    lengths = np.diff(interactions.starts)
    place = np.arange(len(interactions)) - np.repeat(interactions.starts[:-1], lengths)
    late = place >= np.repeat(np.maximum(1, np.ceil(EARLY * lengths)), lengths)
    before = interactions.where(~late)
    vectors, counts = towers.user_vectors(items, before), np.diff(before.starts)
    random = np.random.default_rng(SEED)
    acts = np.flatnonzero(late & (interactions.weight > 0))
    acts = np.sort(random.permutation(acts)[:MOST_ACTS])
    others = np.flatnonzero(counts > 0)
    if len(acts) < FEWEST_ACTS:  # the nearest first, and nothing more
        return Response(np.array([1.0, 0.0, 0.0]), 0.0, np.zeros(3), np.ones(3))
    item, acted = interactions.item[acts], interactions.user[acts]
    drawn = others[random.integers(len(others), size=(len(acts), DRAWN))]
    shopper = np.concatenate([acted, drawn.ravel()])
    of_item = np.concatenate([item, np.repeat(item, DRAWN)])
    is_act = np.arange(len(shopper)) < len(acts)
    # Who had the item before, or has it later, is no one who did not act.
    had = np.isin(shopper * len(items) + of_item, interactions.user * len(items) + interactions.item)
    fit = is_act | ~had
    shopper, of_item, is_act = shopper[fit], of_item[fit], is_act[fit]
    parts = _parts(np.einsum("ij,ij->i", vectors[shopper], items[of_item]), counts[shopper])
    means, spreads = parts.mean(0), np.maximum(parts.std(0), 1e-6)
    weights = np.where(is_act, 1.0, len(others) / DRAWN)
    model = LogisticRegression(C=1.0, max_iter=1000)
    model.fit((parts - means) / spreads, is_act, sample_weight=weights)
    return Response(model.coef_[0].astype(np.float64), float(model.intercept_[0]), means, spreads)


def _parts(cosines: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    often = np.log1p(counts)
    return np.stack([cosines, often, cosines * often], axis=1).astype(np.float64)
