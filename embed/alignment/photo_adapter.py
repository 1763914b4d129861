"""The photo adapter reduces the weight of what differs between photos of one product (light, angle, background).

It is within-class covariance normalisation: a photo x becomes the query `n((x - mean) λ (S + λ I)⁻¹)`, where S is the
covariance of photos about their product's mean, scaled to a mean variance of 1, and n scales to length one. It has a
closed form with one parameter and works for new products. A learned matrix of the same shape memorized its products and
found others less well than no adapter.

Source: Hatch, Kajarekar, Stolcke, "Within-Class Covariance Normalization", Interspeech 2006.
"""

import numpy as np
from numpy.typing import NDArray

from embed.alignment.pairs import ProductPhotos
from embed.encoders.encoder import Vectors, unit_rows

SHRINKAGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def fit_photo_adapter(photos: ProductPhotos, shrinkage: float) -> dict[str, NDArray[np.float32]]:
    """Fit the mean [d] and the symmetric matrix [d, d]; a smaller shrinkage λ changes photos more."""
    order = np.argsort(photos.product, kind="stable")
    images, product = photos.images[order].astype(np.float64), photos.product[order]
    starts = np.flatnonzero(np.diff(product, prepend=-1))
    counts = np.diff(starts, append=len(product))
    means = np.add.reduceat(images, starts) / counts[:, None]
    deviations = images - np.repeat(means, counts, axis=0)
    deviations *= np.sqrt(counts / (counts - 1)).repeat(counts)[:, None]  # unbiased, even for products with two photos
    covariance = deviations.T @ deviations / len(deviations)
    covariance /= max(float(np.trace(covariance)) / len(covariance), 1e-12)
    matrix = shrinkage * np.linalg.inv(covariance + shrinkage * np.eye(len(covariance)))
    return {"photos_mean": images.mean(0).astype(np.float32), "photos_matrix": matrix.astype(np.float32)}


def apply_photo_adapter(photos: Vectors, tensors: dict[str, NDArray[np.float32]]) -> Vectors:
    """Map photos [n, d] to queries [n, d]."""
    return unit_rows((photos - tensors["photos_mean"]) @ tensors["photos_matrix"])


def photo_ranks(queries: Vectors, own_rows: NDArray[np.int64], photos: ProductPhotos) -> NDArray[np.int64]:
    """Return the rank, from 1, of the first other photo of its product for each query [n, d], without itself.

    `own_rows` [n] are the queries' rows in `photos`.
    """
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), 256):
        rows = own_rows[start : start + 256]
        scores = queries[start : start + 256] @ photos.images.T
        scores[np.arange(len(rows)), rows] = -np.inf
        right = photos.product[rows, None] == photos.product[None]
        best = np.where(right, scores, -np.inf).max(1, keepdims=True)
        ranks[start : start + 256] = 1 + ((scores > best) & ~right).sum(1)
    return ranks
