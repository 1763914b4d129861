"""What an encoder is: the two protocols, the space they make, and the fingerprint that keeps spaces apart."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

Vectors = NDArray[np.float32]  # [n, dim], unit rows
Prepared = Any  # one image as the model takes it: an array [height, width, 3], or such a tensor on the card

Part = TypeVar("Part")


@dataclass(frozen=True)
class EncodedTexts:
    """Vectors [n, dim] of n texts, and how many of the texts were longer than the model reads."""

    vectors: Vectors
    truncated: int


class Encoder(Protocol):
    """What image and text encoders share. `name` is the string that a setting names it by."""

    name: str
    dim: int
    fingerprint: str


@runtime_checkable
class ImageEncoder(Encoder, Protocol):
    """Images to unit vectors. `prepare` is cheap, thread-safe and picklable: it runs where images are decoded."""

    shrink_to: int  # the side in pixels beyond which a photo need not be decoded any larger
    batch: int  # images that are encoded together

    @property
    def decode(self) -> Callable[[Sequence[bytes]], Sequence[Prepared | None]] | None:
        """Plain JPEGs to prepared images where the model runs, None for one that is not decoded there; None on CPU."""

    def prepare(self, image: Image) -> Prepared:
        """RGB image to the array the model takes."""
        ...

    def encode_images(self, prepared: Sequence[Prepared]) -> Vectors:
        """n prepared images to [n, dim] unit rows, float32."""
        ...


@runtime_checkable
class TextEncoder(Encoder, Protocol):
    """Texts to unit vectors; what exceeds the model's length is cut and counted."""

    def encode_texts(self, texts: Sequence[str]) -> EncodedTexts:
        """n texts to [n, dim] unit rows, float32."""
        ...


def make_fingerprint(**ingredients: str) -> str:
    """Name of a space's maker: changes when model, weights or preprocessing do, and only then."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(ingredients):
        digest.update(f"{name}={ingredients[name]}\n".encode())
    return digest.hexdigest()


def weights_hash(tensors: Iterable[tuple[str, Any]]) -> str:
    """Hash of a torch state dict's items: names, shapes and bytes, whatever file they came from."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.flatten().view(dtype=_torch_uint8()).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()


def unit_rows(vectors: NDArray[Any]) -> Vectors:
    """Rows scaled to length one, as float32; a zero row stays zero."""
    rows = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Vectors = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def in_batches(
    parts: Sequence[Part],
    size: int,
    dim: int,
    run: Callable[[Sequence[Part]], Vectors],
    streams: int = 1,
    widths: Sequence[int] | None = None,
) -> Vectors:
    """Vectors [n, dim] of n `parts`, run in batches of at most `size`, `streams` of them at once.

    With `widths` [n] a batch has parts of one width only, so that what surrounds a part changes not a bit of its
    vector. With one stream the size is halved when the device's memory runs out.
    """
    vectors = np.empty((len(parts), dim), np.float32)
    order = range(len(parts)) if widths is None else sorted(range(len(parts)), key=widths.__getitem__)
    alike = [list(order)] if widths is None else [list(rows) for _, rows in groupby(order, widths.__getitem__)]
    batches = deque(rows[start : start + size] for rows in alike for start in range(0, len(rows), size))
    if streams > 1 and len(batches) > 1:
        with ThreadPoolExecutor(streams, thread_name_prefix="encoder") as pool:
            for rows, found in zip(
                batches, pool.map(lambda rows: run([parts[at] for at in rows]), batches), strict=True
            ):
                vectors[rows] = found
        return vectors
    while batches:
        rows = batches.popleft()
        if len(rows) > size:
            batches.appendleft(rows[size:])
            rows = rows[:size]
        try:
            vectors[rows] = run([parts[at] for at in rows])
        except RuntimeError as error:  # torch.OutOfMemoryError is one; matched by name so that torch stays unimported
            if type(error).__name__ != "OutOfMemoryError" or len(rows) == 1:
                raise
            size = len(rows) // 2
            batches.appendleft(rows)
    return vectors


def padded_width(tokens: int, limit: int) -> int:
    """How wide a text of so many tokens is made: up to a multiple of 16, as few widths are enough, or the limit."""
    return min(-(-tokens // 16) * 16, limit)


def _torch_uint8() -> Any:
    import torch

    return torch.uint8
