"""Vectors like those of a shop: many clusters of low intrinsic dimension.

Isotropic noise, where all neighbours are equally far, would favour exhaustive methods and mislead about graphs.
"""

import numpy as np
from numpy.typing import NDArray

CLUSTERS, LATENT, SPREAD, NOISE = 800, 48, 0.5, 0.02


def mixture(rows: int, dim: int, seed: int) -> NDArray[np.float32]:
    """Return unit rows [rows, dim]: a noisy projected mixture of 800 Gaussians in 48 dimensions with decaying spectrum.

    The clusters do not depend on `rows`, so that the last rows can serve as queries for the others.
    """
    shape = np.random.default_rng(seed)
    spectrum = np.arange(1, LATENT + 1) ** -0.5
    centres = shape.standard_normal((CLUSTERS, LATENT)) * spectrum
    weights = shape.dirichlet(np.ones(CLUSTERS))
    lift = np.linalg.qr(shape.standard_normal((dim, LATENT)))[0].T
    out = np.empty((rows, dim), np.float32)
    for start in range(0, rows, 50_000):
        chunk = np.random.default_rng([seed, start])
        count = min(50_000, rows - start)
        latent = centres[chunk.choice(CLUSTERS, count, p=weights)]
        latent = latent + SPREAD * spectrum * chunk.standard_normal((count, LATENT))
        block = latent @ lift + NOISE * chunk.standard_normal((count, dim))
        out[start : start + count] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return out
