"""Reads an image and prepares it for an encoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embed.images.decode import ImageRefused, decode_pixels
from embed.images.fetch import ImageSource
from embed.images.preprocessing import Pixels

# The image's key, and the image prepared for the encoder, or None if the key has a vector.
ReadImage = tuple[bytes, Any]
Outcome = ReadImage | ImageRefused


@dataclass(frozen=True)
class ImageReader:
    """Reads one image and prepares it for an encoder. For use in processes, all fields must be picklable.

    `has` tells which keys have a vector; their images are not decoded.
    """

    source: ImageSource
    prepare: Callable[[Pixels], Any]
    shrink_to: int
    has: Callable[[bytes], bool]

    def read(self, reference: str) -> ReadImage:
        """Read an image; raises ImageRefused."""
        key, data = self.source.load(reference, self.has)
        if data is None:
            return key, None
        return key, self.prepare(decode_pixels(data, self.source.limits, shrink_to=self.shrink_to))

    def read_each(self, references: list[str]) -> list[Outcome]:
        """Read several images; the result of each is the image or its refusal."""
        results: list[Outcome] = []
        for reference in references:
            try:
                results.append(self.read(reference))
            except ImageRefused as refused:
                results.append(refused)
        return results


def use_one_thread() -> None:
    """Keep torch from sharing the work on one photo among the cores: every core has a reader."""
    import torch

    torch.set_num_threads(1)  # of this thread, and of those that start after it
