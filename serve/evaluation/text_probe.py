"""A linear probe from texts into an image space: how well texts of products find photos that it was not fitted to.

Ridge regression (Hoerl and Kennard 1970) maps the texts of four in five products onto their photos, and the fifth part
is queried with it, in turn. It is in closed form, and a rotated space gets the same ranks. The alignment that serves
depends on its random start instead, in a small shop by more than encoders differ.
"""

import numpy as np
from numpy.typing import NDArray

from embed.alignment.pairs import TextImagePairs
from embed.encoders import Vectors
from embed.encoders.encoder import unit_rows

FOLDS, SEED = 5, 0
SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, np.inf)
"""Of the mean variance of the texts. Infinity leaves texts where they are: in the image space, or nowhere."""


def held_out_queries(pairs: TextImagePairs, joint: bool, rows: NDArray[np.int64], view: int) -> Vectors:
    """Return the queries of texts for each shrinkage, unit rows [shrinkages, q, d].

    Args:
        pairs: Texts and images of all products.
        joint: Whether texts and images share a space already.
        rows: The pairs whose texts are queries, [q].
        view: Which of the texts of a pair.
    """
    products = np.random.default_rng(SEED).permutation(np.unique(pairs.product))
    queries = np.empty((len(SHRINKAGES), len(rows), pairs.images.shape[1]), np.float32)
    for fold in range(FOLDS):
        held_out = products[fold::FOLDS]
        training = ~np.isin(pairs.product, held_out)
        images = pairs.images[training].astype(np.float64)
        images -= images.mean(0)
        mean = pairs.words[:, training].mean((0, 1), np.float64)
        gram, target = 0.0, 0.0
        for words in pairs.words[:, training]:
            texts = words - mean
            gram += texts.T @ texts
            target += texts.T @ (images - texts if joint else images)
        values, vectors = np.linalg.eigh(gram)
        projected = vectors.T @ target
        asked = np.flatnonzero(np.isin(pairs.product[rows], held_out))
        words = pairs.words[view, rows[asked]]
        for place, shrinkage in enumerate(SHRINKAGES):
            scaled = projected / (values + shrinkage * values.mean())[:, None]
            queries[place, asked] = unit_rows((words - mean) @ vectors @ scaled + (words if joint else 0))
    return queries
