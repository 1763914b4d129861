"""EASE: a linear model that predicts what a user likes from all that the user liked (Steck 2019, arXiv:1905.03375).

With the likes of users in a matrix X [users, items], the weights W [items, items] of least squared error of X W, with a
penalty on their squares and a diagonal of 0, have a closed form: with P = inverse of (X' X + penalty * I), an entry
W[i, j] is -P[i, j] / P[j, j]. As the model is linear, the score of an item is a sum over the items of the history.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

BLOCK = 1024  # rows that are mirrored at a time


def fit_ease(likes: sparse.csr_matrix, penalty: float) -> NDArray[np.float32]:
    """Fit the weights [items, items]: row i has what item i of a history adds to the score of each item.

    It takes about items^3 multiplications, and memory for one such matrix.

    Args:
        likes: How much each user likes each item, [users, items], float32.
        penalty: Of the squares of the weights, in users.
    """
    matrix = (likes.T @ likes).toarray(order="F")  # [items, items]; LAPACK replaces it by its inverse in steps
    matrix[np.diag_indices_from(matrix)] += np.float32(penalty)
    factor, _ = lapack.spotrf(matrix, lower=True, overwrite_a=True)
    inverse, _ = lapack.spotri(factor, lower=True, overwrite_c=True)
    for start in range(0, len(inverse), BLOCK):  # LAPACK fills the lower half
        rows, after = slice(start, start + BLOCK), slice(start + BLOCK, None)
        square = np.tril(inverse[rows, rows])
        inverse[rows, rows] = square + np.tril(square, -1).T
        inverse[rows, after] = inverse[after, rows].T
    scale = np.diag(inverse).copy()
    inverse /= -scale[:, None]
    inverse[np.diag_indices_from(inverse)] = 0
    weights: NDArray[np.float32] = inverse.T
    return weights
