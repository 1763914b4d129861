"""The encoder protocols, the fingerprints that tell spaces apart, and helpers that all encoders share."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from embed.errors import Damaged
from embed.images.preprocessing import Pixels

Vectors = NDArray[np.float32]  # [n, dim], unit rows
Prepared = Any  # one image as the model takes it: an array [height, width, 3], or what a server is sent

Part = TypeVar("Part")


@dataclass(frozen=True)
class EncodedTexts:
    """Vectors [n, dim] of n texts, and how many texts were longer than the model reads."""

    vectors: Vectors
    truncated: int


class Encoder(Protocol):
    """The common part of image and text encoders.

    Attributes:
        name: Its name in the settings.
        dim: Dimension of the vectors.
        fingerprint: Hash of all that changes a vector.
        details: What `vetrina doctor` shows of it: where it runs, its preprocessing, its prompts.
    """

    name: str
    dim: int
    fingerprint: str
    details: Mapping[str, str]


@runtime_checkable
class ImageEncoder(Encoder, Protocol):
    """Encodes images as unit vectors. `prepare` is cheap, thread-safe and picklable: it runs in the readers."""

    shrink_to: int  # pixels of a side, beyond which a larger decoded photo has no effect
    batch: int  # images that are encoded together

    def prepare(self, pixels: Pixels) -> Prepared:
        """Convert an RGB image [h, w, 3] to the array that the model takes."""
        ...

    def encode_images(self, prepared: Sequence[Prepared]) -> Vectors:
        """Encode n prepared images as unit rows [n, dim], float32."""
        ...


@runtime_checkable
class TextEncoder(Encoder, Protocol):
    """Encodes texts as unit vectors; texts beyond the model's length are cut and counted."""

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        """Encode n texts as unit rows [n, dim], float32.

        Some models encode a `query` otherwise than the text of an item.
        """
        ...


def make_fingerprint(**ingredients: str) -> str:
    """Return the fingerprint of a space. It changes when model, weights or preprocessing change, and only then."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(ingredients):
        digest.update(f"{name}={ingredients[name]}\n".encode())
    return digest.hexdigest()


def weights_hash(tensors: Iterable[tuple[str, Any]]) -> str:
    """Hash the items of a torch state dict: names, shapes and bytes, independent of their file."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.flatten().view(dtype=_torch_uint8()).numpy().tobytes() if array.numel() else b"")
    return digest.hexdigest()


def unit_rows(vectors: NDArray[Any]) -> Vectors:
    """Scale rows to length one, as float32; a zero row stays zero."""
    rows = np.asarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Vectors = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def encode_in_batches(
    parts: Sequence[Part],
    size: int,
    dim: int,
    run: Callable[[Sequence[Part]], Vectors],
    streams: int = 1,
    widths: Sequence[int] | None = None,
) -> Vectors:
    """Encode parts in batches. With one stream, the batch size is halved when the device's memory runs out.

    Args:
        parts: n texts or images, in the form that `run` takes.
        size: Maximum size of a batch.
        dim: Dimension of the vectors.
        run: Encodes one batch.
        streams: Batches that run at once.
        widths: Width of each part [n]; a batch then has parts of one width only, so that the vector of a part does not
            depend, even in its last bit, on the other parts of its batch.

    Returns:
        Vectors [n, dim].

    Raises:
        Damaged: A vector is not finite.
    """
    vectors = _encode_in_batches(parts, size, dim, run, streams, widths)
    if not np.isfinite(vectors).all():
        raise Damaged(
            "the encoder gives vectors that are not finite numbers: its weights are damaged, or options such as mean "
            "and std are wrong",
            "encoder",
        )
    return vectors


def _encode_in_batches(
    parts: Sequence[Part],
    size: int,
    dim: int,
    run: Callable[[Sequence[Part]], Vectors],
    streams: int,
    widths: Sequence[int] | None,
) -> Vectors:
    vectors = np.empty((len(parts), dim), np.float32)
    order = range(len(parts)) if widths is None else sorted(range(len(parts)), key=widths.__getitem__)
    groups = [list(order)] if widths is None else [list(rows) for _, rows in groupby(order, widths.__getitem__)]
    batches = deque(rows[start : start + size] for rows in groups for start in range(0, len(rows), size))
    if streams > 1 and len(batches) > 1:
        with ThreadPoolExecutor(streams, thread_name_prefix="encoder") as pool:
            encoded = pool.map(lambda rows: run([parts[row] for row in rows]), batches)
            for rows, batch_vectors in zip(batches, encoded, strict=True):
                vectors[rows] = batch_vectors
        return vectors
    while batches:
        rows = batches.popleft()
        if len(rows) > size:
            batches.appendleft(rows[size:])
            rows = rows[:size]
        try:
            vectors[rows] = run([parts[row] for row in rows])
        except RuntimeError as error:  # such as torch.OutOfMemoryError; matched by name to avoid importing torch
            if type(error).__name__ != "OutOfMemoryError" or len(rows) == 1:
                raise
            size = len(rows) // 2
            batches.appendleft(rows)
    return vectors


def padded_width(tokens: int, limit: int) -> int:
    """Return the padded width of a text: the next multiple of 16, to have few widths, or the limit."""
    return min(-(-tokens // 16) * 16, limit)


def lacks_vocabulary(tokenizer: Any) -> bool:
    """Return whether a tokenizer of transformers has no words, as where its files were not copied."""
    if not hasattr(tokenizer, "all_special_ids"):
        return False
    return len(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)) < 2


def _torch_uint8() -> Any:
    import torch

    return torch.uint8
