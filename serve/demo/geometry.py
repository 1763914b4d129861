"""Curves, ribbons and the parts of a drawing, on a square sheet from (0, 0) at the top left to (100, 100)."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # [n, 2], x to the right and y down
Pair = tuple[float, float]

Paint = Literal["body", "trim", "lining", "rubber", "dark", "wood", "brass", "steel"]
Tone = Literal["seam", "stitch", "lace", "shine"]


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line drawn on a part, `width` in sheet units."""

    points: Points
    width: float = 0.7
    tone: Tone = "seam"


@dataclass(frozen=True, slots=True)
class Part:
    """A filled outline. Parts are painted in order, each over those before it.

    `body` takes the product's colour and pattern; the other paints follow from the colour or are fixed materials.
    `relief` is how far the edge bends away from the light; `tube` shades the part as an upright cylinder;
    `folds` adds the soft waves of cloth; `clipped` keeps the part inside the body that is painted already.
    """

    outline: Points
    paint: Paint = "body"
    strokes: list[Stroke] = field(default_factory=list)
    relief: float = 1.0
    tube: bool = False
    folds: float = 0.0
    clipped: bool = False


def curve(*points: Pair, steps: int = 10) -> Points:
    """Return a Catmull-Rom spline through the points, ends included."""
    knots = np.asarray(points, dtype=np.float64)
    if len(knots) < 3:
        return knots
    return _spline(np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]]), steps)


def loop(*points: Pair, steps: int = 10) -> Points:
    """Return a closed Catmull-Rom spline through the points."""
    knots = np.asarray(points, dtype=np.float64)
    return _spline(np.vstack([knots[-1], knots, knots[:2]]), steps)


def path(*pieces: Points) -> Points:
    """Join pieces by straight lines; there is a corner where two pieces meet."""
    return np.concatenate(pieces)


def line(*points: Pair) -> Points:
    """Return straight lines through the points."""
    return np.asarray(points, dtype=np.float64)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, arc: Pair = (0, 360)) -> Points:
    """Return an ellipse or an arc of it; angles are in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(*arc, 40))
    return np.stack([x + radius_x * np.cos(angle), y + radius_y * np.sin(angle)], axis=1)


def box(left: float, top: float, right: float, bottom: float, corner: float = 2.0) -> Points:
    """Return a rectangle with rounded corners."""
    c = min(corner, (right - left) / 2, (bottom - top) / 2)
    return path(
        ellipse(right - c, top + c, c, c, (270, 360))[::6],
        ellipse(right - c, bottom - c, c, c, (0, 90))[::6],
        ellipse(left + c, bottom - c, c, c, (90, 180))[::6],
        ellipse(left + c, top + c, c, c, (180, 270))[::6],
    )


def mirror(points: Points) -> Points:
    """Mirror points at the vertical middle line of the sheet."""
    return np.asarray(points * [-1, 1] + [100, 0])


def both(half: Points) -> Points:
    """Return a closed symmetric outline from its right half, which runs from top to bottom."""
    return path(half, mirror(half)[::-1])


def ribbon(points: Points, width: float, end_width: float | None = None) -> Points:
    """Outline a band along a line, such as a strap, a handle or a leg."""
    step = np.gradient(points, axis=0)
    normal = np.stack([-step[:, 1], step[:, 0]], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    half = np.linspace(width, width if end_width is None else end_width, len(points))[:, None] / 2
    return path(points + normal * half, (points - normal * half)[::-1])


def _spline(knots: Points, steps: int) -> Points:
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = (knots[i : len(knots) - 3 + i, None, :] for i in range(4))
    points = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.vstack([points.reshape(-1, 2), knots[-2]])
