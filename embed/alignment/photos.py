"""Photos into the image space: what differs between photos of one product (light, angle, background) is made to count
less, by within-class covariance normalisation.

A photo x becomes the query `n((x - mean) λ (S + λ I)⁻¹)`, where S is the covariance of photos about their product's
mean, scaled to a mean variance of 1. It has a closed form and one number to choose, and serves products that it never
saw: a learned head of the same shape learned its products by heart, and found others less well than no head at all.

Source: Hatch, Kajarekar, Stolcke, "Within-Class Covariance Normalization", Interspeech 2006.
"""

import numpy as np
from numpy.typing import NDArray

from embed.alignment.pairs import Photos
from embed.encoders.encoder import Vectors, unit_rows

SHRINKAGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


def adapter(photos: Photos, shrinkage: float) -> dict[str, NDArray[np.float32]]:
    """The mean [d] and the symmetric matrix [d, d]; the smaller the shrinkage λ, the more it changes."""
    order = np.argsort(photos.product, kind="stable")
    images, product = photos.images[order].astype(np.float64), photos.product[order]
    starts = np.flatnonzero(np.diff(product, prepend=-1))
    counts = np.diff(starts, append=len(product))
    means = np.add.reduceat(images, starts) / counts[:, None]
    apart = images - np.repeat(means, counts, axis=0)
    apart *= np.sqrt(counts / (counts - 1)).repeat(counts)[:, None]  # unbiased, for products of two photos too
    covariance = apart.T @ apart / len(apart)
    covariance /= max(float(np.trace(covariance)) / len(covariance), 1e-12)
    matrix = shrinkage * np.linalg.inv(covariance + shrinkage * np.eye(len(covariance)))
    return {"photos_mean": images.mean(0).astype(np.float32), "photos_matrix": matrix.astype(np.float32)}


def adapted(photos: Vectors, tensors: dict[str, NDArray[np.float32]]) -> Vectors:
    """Photos [n, d] as queries [n, d]."""
    return unit_rows((photos - tensors["photos_mean"]) @ tensors["photos_matrix"])


def ranks(queries: Vectors, asked: NDArray[np.int64], everything: Photos) -> NDArray[np.int64]:
    """At which place, from 1, each query [n, d] finds another photo of its product among all but itself.

    `asked` [n] are the queries' own rows in `everything`.
    """
    found = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), 256):
        rows = asked[start : start + 256]
        scores = queries[start : start + 256] @ everything.images.T
        scores[np.arange(len(rows)), rows] = -np.inf
        right = everything.product[rows, None] == everything.product[None]
        best = np.where(right, scores, -np.inf).max(1, keepdims=True)
        found[start : start + 256] = 1 + ((scores > best) & ~right).sum(1)
    return found
