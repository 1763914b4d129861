"""The colours and six patterns of the demo shop, and the paints that follow from them."""

from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from serve.demo.geometry import Paint

Pixels = NDArray[np.float32]

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (43, 43, 48),
    "white": (243, 242, 238),
    "grey": (146, 149, 153),
    "red": (201, 38, 44),
    "orange": (237, 122, 36),
    "yellow": (245, 201, 54),
    "green": (62, 142, 72),
    "teal": (24, 141, 143),
    "blue": (48, 112, 205),
    "navy": (32, 46, 96),
    "purple": (121, 70, 160),
    "pink": (238, 140, 172),
    "brown": (118, 74, 46),
    "beige": (214, 190, 152),
}
COLOR_FAMILIES: dict[str, tuple[str, ...]] = {
    "neutral": ("black", "white", "grey"),
    "warm": ("red", "orange", "yellow"),
    "green": ("green", "teal"),
    "blue": ("blue", "navy"),
    "berry": ("purple", "pink"),
    "earth": ("brown", "beige"),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "floral", "zigzag")

CREAM, INK = (250, 246, 234), (43, 48, 72)
_ACCENTS = {  # the colours of a printed pattern: main and second; only flowers use the second
    "white": ((42, 78, 140), (222, 92, 80)),
    "beige": ((134, 62, 44), (70, 96, 66)),
    "yellow": ((60, 66, 92), (214, 90, 50)),
    "pink": (CREAM, (186, 44, 92)),
    "grey": ((248, 248, 246), (62, 66, 76)),
    "orange": (CREAM, (140, 44, 26)),
}
_PAINTS: dict[str, tuple[int, int, int]] = {
    "rubber": (240, 237, 229),
    "dark": (58, 56, 58),
    "wood": (190, 138, 88),
    "brass": (205, 168, 92),
    "steel": (176, 182, 190),
}

SIZE, SUPERSAMPLING = 256, 4
_MARGIN = 64  # a pattern is drawn larger than the photo, so that each item shows another piece of the cloth


def paint_color(paint: Paint, color: str) -> Pixels:
    """Return the flat colour of a paint, [3, 1, 1], 0 to 255."""
    base = _flat(COLORS[color])
    if paint == "body":
        return base
    if paint == "trim":
        return base * 1.55 + 18 if base.max() < 60 else base * 0.74
    if paint == "lining":
        return base * 0.5 + 6
    return _flat(_PAINTS[paint])


def accents(color: str) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the main and second colour in which patterns are printed on a colour."""
    return _ACCENTS.get(color, (CREAM, (246, 196, 84)))


def cloth(color: str, pattern: str, scale: int, offset: tuple[int, int]) -> Pixels:
    """Return cloth, [3, SIZE, SIZE], 0 to 255, cut at `offset` (below 64); `scale` is 0 (fine) to 2 (coarse)."""
    piece = np.broadcast_to(paint_color("body", color), (3, SIZE, SIZE)).copy()
    if pattern == "plain":
        return piece
    for layer, accent in zip(_layers(pattern, scale), accents(color), strict=False):
        print_ = layer[offset[0] : offset[0] + SIZE, offset[1] : offset[1] + SIZE]
        piece += (_flat(accent) - piece) * print_
    return piece


def _flat(color: tuple[int, int, int]) -> Pixels:
    return np.array(color, np.float32)[:, None, None]


@lru_cache(maxsize=32)
def _layers(pattern: str, scale: int) -> list[Pixels]:
    """Return how much each accent covers the cloth, 0 to 1: one or two layers of [SIZE + margin, SIZE + margin]."""
    side, pitch = SIZE + _MARGIN, (15, 19, 24)[scale]
    if pattern == "striped":
        return [_tile(side, pitch, lambda pen, x, y, u: pen.rectangle((x, y, x + u, y + 0.42 * u), fill=255))]
    if pattern == "checked":
        across = _tile(side, pitch, lambda pen, x, y, u: pen.rectangle((x, y, x + u, y + 0.5 * u), fill=255))
        return [(0.5 * (across + across.T)) ** 0.85 * 0.95]
    if pattern == "zigzag":
        return [_tile(side, pitch, _chevron)]
    if pattern == "dotted":
        return [_tile(side, pitch, lambda pen, x, y, u: _disc(pen, x + u / 2, y + u / 2, 0.27 * u), brick=True)]
    petals = _tile(side, round(pitch * 1.7), _petals, brick=True)
    return [petals, _tile(side, round(pitch * 1.7), _heart_and_leaf, brick=True)]


def _tile(side: int, pitch: int, draw: "_Motif", brick: bool = False) -> Pixels:
    sheet = Image.new("L", (side * SUPERSAMPLING,) * 2)
    pen, unit = ImageDraw.Draw(sheet), pitch * SUPERSAMPLING
    for row in range(-1, side // pitch + 2):
        shift = unit // 2 if brick and row % 2 else 0
        for column in range(-1, side // pitch + 2):
            draw(pen, column * unit - shift, row * unit, unit)
    return unit_pixels(sheet.reduce(SUPERSAMPLING))


def unit_pixels(image: Image.Image) -> Pixels:
    """Convert a grey image to numbers from 0 to 1."""
    return np.asarray(np.asarray(image, np.float32) * np.float32(1 / 255), np.float32)


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


def _chevron(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    top, thick, half = y, 0.4 * unit, unit / 2
    pen.polygon(
        [
            *((x, top + half), (x + half, top), (x + unit, top + half)),
            *((x + unit, top + half + thick), (x + half, top + thick), (x, top + half + thick)),
        ],
        fill=255,
    )


def _petals(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    for angle in np.radians(np.arange(5) * 72 - 90):
        _disc(pen, x + unit * (0.42 + 0.17 * np.cos(angle)), y + unit * (0.42 + 0.17 * np.sin(angle)), 0.125 * unit)


def _heart_and_leaf(pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None:
    _disc(pen, x + 0.42 * unit, y + 0.42 * unit, 0.095 * unit)
    tip, root = np.array([x + 0.95 * unit, y + 0.66 * unit]), np.array([x + 0.66 * unit, y + 0.88 * unit])
    side = np.array([tip[1] - root[1], root[0] - tip[0]]) * 0.3
    middle = (tip + root) / 2
    pen.polygon([tuple(point) for point in (tip, middle + side, root, middle - side)], fill=255)


class _Motif(Protocol):
    """The call signature of a motif: draw one cell of side `unit` with its top left corner at (x, y)."""

    def __call__(self, pen: ImageDraw.ImageDraw, x: float, y: float, unit: float) -> None: ...
