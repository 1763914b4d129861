"""How closely the vectors of a model agree with those of the library that it comes from, on examples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.encoders.encoder import unit_rows

EXAMPLES = 16
MIN_EXACT, MIN_SERVED = 0.9999, 0.995
"""Smallest agreement of a model in fp32, and in the precision that it is served in."""

EXAMPLE_TEXTS: Sequence[str] = (
    "red running shoes for women", "men's waterproof hiking jacket", "organic green tea, 20 bags", "oak dining table",
    "wireless headphones with noise cancelling", "cotton baby blanket", "stainless steel water bottle 750 ml", "lamp",
    "blue denim jeans, slim fit", "espresso machine", "yoga mat", "leather wallet with a coin pocket", "garden chair",
    "size 42", "vanilla ice cream", "a set of six wine glasses made of recycled glass, safe for the dishwasher",
)  # fmt: skip


def example_images(height: int, width: int) -> NDArray[np.uint8]:
    """Draw 16 images [16, height, width, 3]: coloured grounds, each with a shape, light from one side, and grain."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    images = np.empty((EXAMPLES, height, width, 3), np.uint8)
    for image in images:
        ground, colour = random.uniform(0, 255, (2, 3))
        center_y, center_x, radius, angle = random.uniform((0.2, 0.2, 0.1, 0), (0.8, 0.8, 0.5, np.pi))
        distance = (
            np.maximum(abs(y - center_y), abs(x - center_x)) if angle > 2 else np.hypot(y - center_y, x - center_x)
        )
        stripes = np.sin((np.cos(angle) * x + np.sin(angle) * y) * random.uniform(10, 80))
        levels = np.where((distance < radius)[..., None], colour + 30 * stripes[..., None], ground)
        levels = levels * (0.7 + 0.3 * x[..., None]) + random.normal(0, 6, levels.shape)
        image[:] = levels.clip(0, 255)
    return images


def measure_agreement(vectors: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the smallest cosine between the rows of two arrays [n, dim], each less the mean of its reference.

    The mean is taken off because all vectors of some models point nearly the same way: their plain cosine is near 1
    whatever is wrong.
    """
    mean = unit_rows(reference).mean(0)
    one, other = (unit_rows(unit_rows(rows) - mean) for rows in (vectors, reference))
    return float((one * other).sum(1).min())
