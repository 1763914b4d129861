"""Scales and crops photos to the size that a model takes, as the model's own preprocessing does.

The three ways are those of open_clip 3.3.0 (`open_clip.transform`) and torchvision.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ResizeMode = Literal["shortest", "longest", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
Pixels = NDArray[np.uint8]  # [height, width, 3], RGB

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the input of a model; picklable, and safe in several threads.

    Attributes:
        height: Height of the model's input in pixels.
        width: Width of the model's input in pixels.
        resize_mode: `shortest` scales the short side to the input's size and crops the centre; `longest` scales the
            long side and fills the rest; `squash` scales both.
        interpolation: How pixels are interpolated, with antialiasing.
        scale_to: Length of the short side before the crop, if it is not the input's.
        fill: Level of the added pixels, from 0 to 255.
    """

    height: int
    width: int
    resize_mode: ResizeMode = "shortest"
    interpolation: Interpolation = "bicubic"
    scale_to: int | None = None
    fill: int = 0

    @property
    def shrink_to(self) -> int:
        """Pixels of a side, beyond which a larger decoded photo has no effect."""
        return self.scale_to or max(self.height, self.width)

    def __call__(self, pixels: Pixels) -> Pixels:
        """Scale and crop an image [h, w, 3] to [height, width, 3]."""
        height, width = self._scaled_size(*pixels.shape[:2])
        resized = _resize(pixels, height, width, self.interpolation)
        return self._center(resized)

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size [height, width] of an image before it is cropped or filled."""
        if self.resize_mode == "squash":
            return self.height, self.width
        if self.resize_mode == "shortest" and self.height == self.width:
            short = self.scale_to or self.height
            if width <= height:
                return int(short * height / width), short
            return short, int(short * width / height)
        ratios = height / self.height, width / self.width
        ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _center(self, pixels: Pixels) -> Pixels:
        """Crop the centre of an image, or put it in the middle of a filled one."""
        if pixels.shape[:2] == (self.height, self.width):
            return pixels
        whole = np.full((self.height, self.width, 3), self.fill, np.uint8)
        (source_y, target_y), (source_x, target_x) = (
            _overlap(have, want) for have, want in zip(pixels.shape[:2], (self.height, self.width), strict=True)
        )
        whole[target_y, target_x] = pixels[source_y, source_x]
        return whole


def _overlap(have: int, want: int) -> tuple[slice, slice]:
    """Return the central part of a length that is cropped, and where it goes in one that is filled."""
    if have >= want:
        start = round((have - want) / 2)
        return slice(start, start + want), slice(0, want)
    start = (want - have) // 2
    return slice(0, have), slice(start, start + have)


def _resize(pixels: Pixels, height: int, width: int, interpolation: Interpolation) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), _FILTERS[interpolation]))
