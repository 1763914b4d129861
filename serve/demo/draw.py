"""Draws a product: paints its parts with light, cloth and seams, and places it in a photo studio."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from serve.demo.geometry import Part, Points, Tone
from serve.demo.paint import SIZE, SUPERSAMPLING, Pixels, cloth, paint_color, unit_pixels
from serve.demo.shapes import FLAT_LAY, SHAPES

_STUDIOS = ((246, 245, 242), (244, 241, 236), (240, 242, 244), (247, 244, 240))
_TINTS = ((226, 233, 240), (242, 228, 220), (228, 238, 226), (240, 234, 214), (234, 226, 240))


@dataclass(frozen=True, slots=True)
class Appearance:
    """The visible properties of an item. `seed` determines random details: proportions, piece of cloth and light."""

    kind: str
    variant: int
    color: str
    pattern: str
    seed: int


def draw(appearance: Appearance, photos: int = 1) -> list[Image.Image]:
    """Draw photos of SIZE x SIZE pixels: one in the studio, further ones mirrored and rotated on tinted grounds."""
    item = _paint_item(appearance)
    rng = np.random.default_rng([appearance.seed, 1])
    pictures = []
    for photo in range(photos):
        color, alpha = item if photo == 0 else _rotate(*item, rng.uniform(-9, 9), rng.uniform(0.98, 1.1))
        studios = _STUDIOS if photo == 0 else _TINTS
        ground = _ground(studios[int(rng.integers(len(studios)))], alpha, flat=appearance.kind in FLAT_LAY)
        _blend(ground, color, alpha)
        pictures.append(Image.fromarray(_to_bytes(ground)))
    return pictures


@dataclass(frozen=True, slots=True)
class _Window:
    """The rectangle of the photo that contains a part, in pixels; the part is painted inside it."""

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def around(cls, points: Points, margin: int = 14) -> "_Window":
        low = np.clip(points.min(axis=0) / SUPERSAMPLING - margin, 0, SIZE - 4).astype(int) // 2 * 2
        high = np.clip(-(-points.max(axis=0) // SUPERSAMPLING) + margin, low + 4, SIZE).astype(int) // 2 * 2
        return cls(int(low[1]), int(low[0]), int(high[1]), int(high[0]))

    def crop(self, pixels: Pixels) -> Pixels:
        """Return the window's pixels, as a view."""
        return pixels[..., self.top : self.bottom, self.left : self.right]

    def sheet(self) -> Image.Image:
        return Image.new("L", ((self.right - self.left) * SUPERSAMPLING, (self.bottom - self.top) * SUPERSAMPLING))

    def local(self, points: Points) -> list[float]:
        flat: list[float] = (points - np.array([self.left, self.top]) * SUPERSAMPLING).ravel().tolist()
        return flat


def _paint_item(appearance: Appearance) -> tuple[Pixels, Pixels]:
    """Paint the item alone: its colour, [3, SIZE, SIZE], and its opacity, [SIZE, SIZE]."""
    rng = np.random.default_rng(appearance.seed)
    stretch = rng.uniform(0.95, 1.04, size=2)
    scale, offset = int(rng.integers(3)), (int(rng.integers(64)), int(rng.integers(64)))
    fabric = cloth(appearance.color, appearance.pattern, scale, offset)
    waves = _waves()[offset[1] : offset[1] + SIZE, offset[0] : offset[0] + SIZE]
    color = np.zeros((3, SIZE, SIZE), np.float32)
    alpha, body = np.zeros((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.float32)
    for part in SHAPES[appearance.kind].draw(appearance.variant):
        outline = _to_pixels(part.outline, stretch)
        window = _Window.around(outline)
        mask = _fill(outline, window)
        if part.clipped:
            mask = mask * window.crop(body)
        soft = _blur(mask, 5)
        base = window.crop(fabric) if part.paint == "body" else paint_color(part.paint, appearance.color)
        lit = _shade(base, _light(mask, soft, part, window, waves))
        edge = _lines([outline], 0.8, window, close=True) * 0.6
        for tone, width in sorted({(stroke.tone, stroke.width) for stroke in part.strokes}):
            lines = [_to_pixels(s.points, stretch) for s in part.strokes if (s.tone, s.width) == (tone, width)]
            drawn = _lines(lines, width, window, dashed=tone == "stitch")
            if tone == "seam":
                edge = np.maximum(edge, drawn * 0.75)
            else:
                _blend(lit, _thread(tone, base), drawn * 0.9)
        _blend(lit, base * 0.45 if base.max() > 70 else base * 0.2 + 95, edge)
        under = window.crop(color)
        under *= 1 - 0.34 * _shift(soft, 3, 2)  # each part casts a faint shadow on the parts under it
        _blend(under, lit, mask)
        covered = window.crop(alpha)
        covered += (1 - covered) * mask
        if part.paint == "body":
            np.maximum(window.crop(body), mask, out=window.crop(body))
    return color, alpha


def _light(mask: Pixels, soft: Pixels, part: Part, window: _Window, waves: Pixels) -> Pixels:
    """Compute the light on a part, about -1 (shadow) to 1 (shine), for a lamp at the top left."""
    light = part.relief * 0.9 * (_shift(soft, -4, -3) - _shift(soft, 4, 3))
    light += np.linspace(0.1, -0.12, SIZE, dtype=np.float32)[window.top : window.bottom, None]
    if part.folds:
        light += part.folds * window.crop(waves)
    if part.tube:
        columns = np.flatnonzero(mask.max(axis=0) > 0.5)
        if len(columns):
            across = (np.arange(mask.shape[1]) - columns[0]) / max(int(columns[-1] - columns[0]), 1) * 2 - 1
            light += (0.5 * np.exp(-(((across + 0.42) / 0.2) ** 2)) - 0.42 * np.abs(across) ** 3).astype(np.float32)
    return light


def _shade(base: Pixels, light: Pixels) -> Pixels:
    """Apply light to a paint: shadow moves it towards black, shine towards white."""
    shine, shadow = 0.62 * np.maximum(light, 0), 0.62 * np.minimum(light, 0)
    lit = base * (1 + shadow - shine)
    lit += 255 * shine
    return np.asarray(lit)


def _thread(tone: Tone, base: Pixels) -> Pixels:
    if tone != "stitch":
        return np.full((3, 1, 1), 255 if tone == "shine" else 245, np.float32)
    mean = base.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
    return np.asarray(mean * 0.5 + 128 if mean.mean() < 175 else mean * 0.66)


def _blend(under: Pixels, over: Pixels, cover: Pixels) -> None:
    """Blend `over` onto `under` in place, with opacity `cover`, [height, width]."""
    under *= 1 - cover
    under += over * cover


def _ground(studio: tuple[int, int, int], alpha: Pixels, flat: bool) -> Pixels:
    """Draw the studio with the item's shadow: around an item that lies flat, on the floor under one that stands."""
    if flat:
        shadow = _shift(_blur(alpha, 7), 5, 4) * 0.3
    else:
        rows, columns = np.flatnonzero(alpha.max(axis=1) > 0.5), np.flatnonzero(alpha.max(axis=0) > 0.5)
        floor, left, right = int(rows[-1]), int(columns[0]), int(columns[-1])
        feet = np.flatnonzero(alpha[max(floor - 14, 0) : floor + 1].max(axis=0) > 0.5)
        left, right = (left + 2 * int(feet[0])) // 3, (right + 2 * int(feet[-1])) // 3
        sheet = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(sheet).ellipse((left - 6, floor - 7, right + 12, floor + 7), fill=255)
        shadow = _blur(unit_pixels(sheet), 5) * 0.42
    return np.asarray(_studio(studio) * (1 - shadow))


def _rotate(color: Pixels, alpha: Pixels, angle: float, zoom: float) -> tuple[Pixels, Pixels]:
    """Mirror the item, rotate it by `angle` degrees and enlarge it."""
    rgba = Image.fromarray(_to_bytes(np.concatenate([color, alpha[None] * 255])[:, :, ::-1]), "RGBA")
    cosine, sine, middle = np.cos(np.radians(angle)) / zoom, np.sin(np.radians(angle)) / zoom, SIZE / 2
    matrix = (cosine, sine, middle * (1 - cosine - sine), -sine, cosine, middle * (1 + sine - cosine))
    turned = rgba.transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(turned.convert("RGB"), np.float32).transpose(2, 0, 1), unit_pixels(turned.getchannel("A"))


def _to_pixels(points: Points, stretch: NDArray[np.float64]) -> Points:
    return np.asarray(((points - 50) * stretch * 0.94 + 50) * (SIZE * SUPERSAMPLING / 100))


def _fill(points: Points, window: _Window) -> Pixels:
    """Fill an outline, antialiased, 0 to 1."""
    sheet = window.sheet()
    ImageDraw.Draw(sheet).polygon(window.local(points), fill=255)
    return unit_pixels(sheet.reduce(SUPERSAMPLING))


def _lines(lines: list[Points], width: float, window: _Window, close: bool = False, dashed: bool = False) -> Pixels:
    sheet = window.sheet()
    pen, pixels = ImageDraw.Draw(sheet), round(width * SIZE * SUPERSAMPLING / 100)
    for points in lines:
        for piece in _dashes(points) if dashed else [np.vstack([points, points[:1]]) if close else points]:
            pen.line(window.local(piece), fill=255, width=pixels, joint="curve" if pixels > 8 else None)
    return unit_pixels(sheet.reduce(SUPERSAMPLING))


def _dashes(points: Points, dash: float = 16.0) -> list[Points]:
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    marks = np.arange(0, along[-1], dash)
    stops = np.stack([np.interp(marks, along, points[:, axis]) for axis in (0, 1)], axis=1)
    return [stops[i : i + 2] for i in range(0, len(stops) - 1, 2)]


def _blur(mask: Pixels, radius: float) -> Pixels:
    """Blur at half size, which is as soft and four times as fast."""
    image = Image.fromarray((mask * 255).astype(np.uint8))
    small = image.reduce(2).filter(ImageFilter.GaussianBlur(radius / 2))
    return unit_pixels(small.resize(image.size, Image.Resampling.BILINEAR))


def _shift(pixels: Pixels, down: int, right: int) -> Pixels:
    """Move pixels down and right; zeros fill the sides."""
    (height, width), moved = pixels.shape, np.zeros_like(pixels)
    moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = pixels[
        max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
    ]
    return moved


def _to_bytes(pixels: Pixels) -> NDArray[np.uint8]:
    """Convert [channels, height, width] to bytes of [height, width, channels], as Pillow expects."""
    return np.ascontiguousarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8).transpose(1, 2, 0))


@lru_cache(maxsize=16)
def _studio(tint: tuple[int, int, int]) -> Pixels:
    """Draw an empty studio, a little darker towards the corners and the floor."""
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    fall_off = 1.02 - 0.055 * (x**2 + (y + 0.15) ** 2) - 0.035 * np.clip(y - 0.35, 0, 1)
    return np.asarray(fall_off * np.array(tint)[:, None, None], np.float32)


@lru_cache(maxsize=1)
def _waves() -> Pixels:
    """Compute soft slanting folds, about -1 to 1, larger than the photo by 64 pixels."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0 : SIZE + 64, 0 : SIZE + 64] / SIZE
    waves = np.zeros_like(x)
    for _ in range(7):
        slope, pitch, phase = rng.uniform(-0.5, 0.5), rng.uniform(14, 34), rng.uniform(0, 6.3)
        waves += np.sin(pitch * (x + slope * y) + 1.4 * np.sin(5 * y + phase) + phase)
    return np.asarray(waves / np.abs(waves).max(), np.float32)
