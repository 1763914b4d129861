"""How likely a shopper is to act on an item: by how it suits the shopper's taste, and how much the shopper does.

Learned from the last fifth of what each shopper did, by what was known before it: a logistic model of the cosine of
taste and item, the logarithms of how often the shopper acted and liked, and cosine and likes together. Of who did not
act some are drawn, and weighed as all there are, so that the model's figures are those of one item among all shoppers.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Interactions
from serve.campaigns.user_vectors import center_of, unit, user_vectors

EARLY = 0.8  # of what a shopper did, by which the rest is foretold
DRAWN = 20  # shoppers who did not act, for each who did
MAX_ACTS = 20_000
MIN_ACTS = 20
SEED = 0


@dataclass(frozen=True)
class ConversionModel:
    """Coefficients [4] of the standardised parts, which have `means` [4] and `spreads` [4], and the constant."""

    coefficients: NDArray[np.float64]
    constant: float
    means: NDArray[np.float64]
    spreads: NDArray[np.float64]

    def probabilities(
        self, cosines: NDArray[np.float32], counts: NDArray[np.int64], likes: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The probability [m] that each of m shoppers acts, by cosines, interactions and likes, [m] each."""
        parts = (_parts(cosines, counts, likes) - self.means) / self.spreads
        probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-(parts @ self.coefficients + self.constant)))
        return probabilities


def fit_conversion_model(items: NDArray[np.float32], interactions: Interactions) -> ConversionModel:
    """Learn it from the interactions of m shoppers with items of vectors [n, width]."""
    lengths = np.diff(interactions.starts)
    place = np.arange(len(interactions)) - np.repeat(interactions.starts[:-1], lengths)
    late = place >= np.repeat(np.maximum(1, np.ceil(EARLY * lengths)), lengths)
    before = interactions.where(~late)
    center = center_of(items, before)
    vectors, counts, likes = user_vectors(items, center, before)
    about = unit(items - center)
    random = np.random.default_rng(SEED)
    acts = np.flatnonzero(late & (interactions.weight > 0))
    acts = np.sort(random.permutation(acts)[:MAX_ACTS])
    others = np.flatnonzero(counts > 0)
    if len(acts) < MIN_ACTS:  # the nearest first, and nothing more
        return ConversionModel(np.array([1.0, 0.0, 0.0, 0.0]), 0.0, np.zeros(4), np.ones(4))
    item, acted = interactions.item[acts], interactions.user[acts]
    drawn = others[random.integers(len(others), size=(len(acts), DRAWN))]
    user = np.concatenate([acted, drawn.ravel()])
    of_item = np.concatenate([item, np.repeat(item, DRAWN)])
    is_interaction = np.arange(len(user)) < len(acts)
    # Who had the item before, or has it later, is no one who did not act.
    had = np.isin(user * len(items) + of_item, interactions.user * len(items) + interactions.item)
    fit = is_interaction | ~had
    user, of_item, is_interaction = user[fit], of_item[fit], is_interaction[fit]
    from sklearn.linear_model import LogisticRegression  # slow to import

    parts = _parts(np.einsum("ij,ij->i", vectors[user], about[of_item]), counts[user], likes[user])
    means, spreads = parts.mean(0), np.maximum(parts.std(0), 1e-6)
    weights = np.where(is_interaction, 1.0, len(others) / DRAWN)
    model = LogisticRegression(C=1.0, max_iter=1000)
    model.fit((parts - means) / spreads, is_interaction, sample_weight=weights)
    return ConversionModel(model.coef_[0].astype(np.float64), float(model.intercept_[0]), means, spreads)


def _parts(cosines: NDArray[np.float32], counts: NDArray[np.int64], likes: NDArray[np.int64]) -> NDArray[np.float64]:
    liked = np.log1p(likes)
    return np.stack([cosines, np.log1p(counts), liked, cosines * liked], axis=1).astype(np.float64)
