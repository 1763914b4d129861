"""The conversion model: how likely a user is to interact with an item.

It is a logistic model of the cosine of user and item, the logarithms of the user's interactions and likes, and the
product of cosine and likes. It learns from the last fifth of each user's interactions, by the earlier ones.
Of the users without an interaction some are sampled, and weighted to stand for all, so that the predicted probabilities
are those of one item among all users.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Interactions
from serve.campaigns.user_vectors import interaction_center, unit_rows, user_vectors
from serve.core.ragged import ragged_indices

EARLY = 0.8  # share of a user's interactions by which the rest is predicted
NEGATIVES = 20  # users sampled without an interaction, for each interaction
MAX_POSITIVES = 20_000  # interactions
MIN_POSITIVES = 20
SEED = 0


@dataclass(frozen=True)
class ConversionModel:
    """Coefficients [4] of the standardized inputs, the inputs' `means` [4] and `spreads` [4], and the constant."""

    coefficients: NDArray[np.float64]
    constant: float
    means: NDArray[np.float64]
    spreads: NDArray[np.float64]

    def probabilities(
        self, cosines: NDArray[np.float32], counts: NDArray[np.int64], likes: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the probability [m] that each user interacts, by cosines, interactions and likes, [m] each."""
        inputs = (_inputs(cosines, counts, likes) - self.means) / self.spreads
        probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-(inputs @ self.coefficients + self.constant)))
        return probabilities


def fit_conversion_model(items: NDArray[np.float32], interactions: Interactions) -> ConversionModel:
    """Fit the model to interactions of m users with items that have vectors [n, width]."""
    lengths = np.diff(interactions.starts)
    position = ragged_indices(np.zeros_like(lengths), lengths)
    is_late = position >= np.repeat(np.maximum(1, np.ceil(EARLY * lengths)), lengths)
    before = interactions.where(~is_late)
    center = interaction_center(items, before)
    vectors, counts, likes = user_vectors(items, center, before)
    directions = unit_rows(items - center)
    random = np.random.default_rng(SEED)
    positives = np.flatnonzero(is_late & (interactions.weight > 0))
    positives = np.sort(random.permutation(positives)[:MAX_POSITIVES])
    candidates = np.flatnonzero(counts > 0)
    if len(positives) < MIN_POSITIVES:  # rank users by cosine alone
        return ConversionModel(np.array([1.0, 0.0, 0.0, 0.0]), 0.0, np.zeros(4), np.ones(4))
    positive_item, positive_user = interactions.item[positives], interactions.user[positives]
    negative_user = candidates[random.integers(len(candidates), size=(len(positives), NEGATIVES))]
    user = np.concatenate([positive_user, negative_user.ravel()])
    item = np.concatenate([positive_item, np.repeat(positive_item, NEGATIVES)])
    is_positive = np.arange(len(user)) < len(positives)
    # A user who interacts with the item at any time is not a negative.
    interacts = np.isin(user * len(items) + item, interactions.user * len(items) + interactions.item)
    is_used = is_positive | ~interacts
    user, item, is_positive = user[is_used], item[is_used], is_positive[is_used]
    from sklearn.linear_model import LogisticRegression  # slow to import

    inputs = _inputs(np.einsum("ij,ij->i", vectors[user], directions[item]), counts[user], likes[user])
    means, spreads = inputs.mean(0), np.maximum(inputs.std(0), 1e-6)
    weights = np.where(is_positive, 1.0, len(candidates) / NEGATIVES)
    model = LogisticRegression(C=1.0, max_iter=1000)
    model.fit((inputs - means) / spreads, is_positive, sample_weight=weights)
    return ConversionModel(model.coef_[0].astype(np.float64), float(model.intercept_[0]), means, spreads)


def _inputs(cosines: NDArray[np.float32], counts: NDArray[np.int64], likes: NDArray[np.int64]) -> NDArray[np.float64]:
    log_likes = np.log1p(likes)
    return np.stack([cosines, np.log1p(counts), log_likes, cosines * log_likes], axis=1).astype(np.float64)
