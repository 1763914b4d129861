"""The offline encode job: catalogue to vector store. It encodes only new content and can be resumed at any instant.

Threads read, hash and decode images ahead of the encoder, which takes them in catalogue order. Every 1,024 new vectors
form one part of the store. New content always comes in the same order and parts are written in that order. So a job
that is killed leaves complete parts, and the next run cuts the rest into the same batches: the stored bytes are those
of an uninterrupted run.
"""

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow.compute as pc
from numpy.typing import NDArray

from embed.catalogue import Catalogue
from embed.durable import write_file
from embed.encoders import ImageEncoder, TextEncoder, Vectors
from embed.encoders.encoder import Prepared
from embed.images import ImageRefused, ImageSource
from embed.images.image_reader import ImageReader
from embed.images.read_ahead import read_ahead
from embed.progress import Progress
from embed.text_composition import compose_texts
from embed.vector_store import Keys, KeySet, VectorStore, as_keys, content_key

PART_SIZE = 1024  # vectors that a crash may cost; a multiple of all CPU batch sizes, so batches never straddle parts
MAX_IN_FLIGHT = 2  # batches encoded at once, so that no core waits for the end of one before the next begins
READ_AHEAD_BATCHES = 2  # maximum of decoded batches that wait for the encoder


class ImageReference(NamedTuple):
    """One image of an item: catalogue row of the item, index among its images, item id, and where to read it."""

    row: int
    label: int
    item_id: str
    reference: str


class ImageResult(NamedTuple):
    """The result of reading an image: its key, or why it was refused."""

    image: ImageReference
    key: bytes | None = None
    refused: ImageRefused | None = None


class EncodedBatch(NamedTuple):
    """The vectors [n, dim] of n new contents, and their keys."""

    keys: Sequence[bytes]
    vectors: Vectors


@dataclass(frozen=True)
class ImageFailure:
    """An image that could not be used. The item keeps its text; the next run tries the image again."""

    item_id: str
    image: str
    code: str
    reason: str


@dataclass
class SpaceVectors:
    """The rows of a space: `owners[i]` is the catalogue row whose content has key `keys[i]`; owners never decrease.

    `labels[i]` is the index of the image among the item's images, or says whether the row is headline or description.
    """

    space: str
    store: VectorStore
    encoder: str
    fingerprint: str
    owners: NDArray[np.int32]  # [n]
    labels: NDArray[np.int32]  # [n]
    keys: Keys  # [n]
    encoded: int  # vectors made by this run
    truncated: int = 0  # texts of this run that were longer than the encoder reads
    failures: list[ImageFailure] = field(default_factory=list)

    @property
    def dim(self) -> int:
        return self.store.dim

    def gather(self, out: Vectors) -> None:
        """Copy the rows' vectors into `out` [n, dim]."""
        self.store.gather(self.keys, out)


def encode_texts(
    store: Path, catalogue: Catalogue, encoder: TextEncoder, progress: Progress | None = None
) -> SpaceVectors:
    """Encode the texts of all items: one row for each headline and each description.

    Args:
        store: The store's folder.
        catalogue: The items.
        encoder: Makes the space.
        progress: Called with items done and items in total.

    Returns:
        The rows of the text space.
    """
    builder = SpaceBuilder(VectorStore(store, "text", encoder.fingerprint, encoder.dim))
    truncated = 0
    pending: list[tuple[bytes, str]] = []

    def flush() -> None:
        nonlocal truncated
        encoded = encoder.encode_texts([text for _, text in pending])
        truncated += encoded.truncated
        builder.add_vectors(EncodedBatch([key for key, _ in pending], encoded.vectors))
        pending.clear()

    for row, label, key, text in iterate_texts(catalogue):
        if builder.add_row(row, label, key):
            pending.append((key, text))
            if len(pending) == PART_SIZE:
                flush()
        if progress:
            progress(row + 1, len(catalogue))
    if pending:
        flush()
    if progress:  # the last items may have no text
        progress(len(catalogue), len(catalogue))
    return builder.finish("text", encoder, truncated=truncated)


def iterate_texts(catalogue: Catalogue) -> Iterator[tuple[int, int, bytes, str]]:
    """Yield every text in catalogue order: the item's row, the text's label, its key, and the text."""
    for row, item in enumerate(catalogue.items()):
        for label, text in compose_texts(item):
            yield row, label, content_key(text), text


def encode_images(
    store: Path,
    catalogue: Catalogue,
    encoder: ImageEncoder,
    source: ImageSource,
    progress: Progress | None = None,
    readers: int = 2,
    processes: bool = False,
) -> SpaceVectors:
    """Encode every image of every item, one row for each. Failures are counted and listed in `failures.jsonl`.

    Args:
        store: The store's folder.
        catalogue: The items.
        encoder: Makes the space.
        source: Reads the images.
        progress: Called with images done and images in total.
        readers: Threads, or processes, that read images.
        processes: Read in processes; the calling script must then be importable.

    Returns:
        The rows of the image space.
    """
    builder = SpaceBuilder(VectorStore(store, "image", encoder.fingerprint, encoder.dim))
    # Processes know the keys that the store has now, but not those that come twice in this run.
    has = KeySet(builder.store.keys()).__contains__ if processes else builder.has
    reader = ImageReader(source, encoder.prepare, encoder.shrink_to, has)
    stream = encode_stream(iterate_images(catalogue), encoder, reader, builder.has, readers, processes)
    return builder.add_images(encoder, stream, catalogue, progress)


def iterate_images(catalogue: Catalogue) -> Iterator[ImageReference]:
    """Yield every image of every item, in catalogue order."""
    for row, item in enumerate(catalogue.items()):
        for label, image in enumerate(item.images):
            yield ImageReference(row, label, item.item_id, image)


def encode_stream(
    images: Iterable[ImageReference],
    encoder: ImageEncoder,
    reader: ImageReader,
    has: Callable[[bytes], bool],
    readers: int,
    processes: bool = False,
) -> Iterator[ImageResult | EncodedBatch]:
    """Yield the result of each image in order, and between them the vectors of new contents.

    Args:
        images: What to encode.
        encoder: Makes the vectors.
        reader: Reads and decodes one image.
        has: Whether a key needs no vector. The caller must let it return True for every key of a yielded result.
        readers: Threads, or processes, that read images.
        processes: Read in processes.
    """
    keys: list[bytes] = []
    prepared: list[Prepared] = []
    in_flight: deque[tuple[list[bytes], Future[Vectors]]] = deque()
    ahead = READ_AHEAD_BATCHES * encoder.batch
    with ThreadPoolExecutor(MAX_IN_FLIGHT, thread_name_prefix="encoding") as pool:
        read = read_ahead(images, lambda image: image.reference, reader, readers, ahead, processes)
        for image, outcome in read:
            if isinstance(outcome, ImageRefused):
                yield ImageResult(image, refused=outcome)
                continue
            key, pixels = outcome
            new = pixels is not None and not has(key)
            yield ImageResult(image, key)
            if new:
                keys.append(key)
                prepared.append(pixels)
            if len(prepared) == encoder.batch:
                if len(in_flight) == MAX_IN_FLIGHT:
                    yield _next_encoded(in_flight)
                in_flight.append((keys, pool.submit(encoder.encode_images, prepared)))
                keys, prepared = [], []
        if prepared:
            in_flight.append((keys, pool.submit(encoder.encode_images, prepared)))
        while in_flight:
            yield _next_encoded(in_flight)


def _next_encoded(in_flight: "deque[tuple[list[bytes], Future[Vectors]]]") -> EncodedBatch:
    keys, vectors = in_flight.popleft()
    return EncodedBatch(keys, vectors.result())


class SpaceBuilder:
    """Collects the rows of one space and stores their new vectors."""

    def __init__(self, store: VectorStore) -> None:
        self.store = store
        self._owners = array("i")
        self._labels = array("i")
        self._keys = bytearray()
        self._new: set[bytes] = set()
        self._pending: dict[bytes, NDArray[np.float32]] = {}
        self._encoded = 0

    def has(self, key: bytes) -> bool:
        """Return whether a key has a vector or is about to get one."""
        return key in self._new or bool(self.store.contains(as_keys([key]))[0])

    def add_row(self, owner: int, label: int, key: bytes) -> bool:
        """Add a row for an item; return whether its content is new and must be encoded."""
        self._owners.append(owner)
        self._labels.append(label)
        self._keys += key
        new = not self.has(key)
        if new:
            self._new.add(key)
        return new

    def add_vectors(self, encoded: EncodedBatch) -> None:
        """Store vectors of new rows, in parts of one size whatever the size of the batches."""
        for key, vector in zip(encoded.keys, encoded.vectors, strict=True):
            if key in self._new:  # two machines may have encoded the same image
                self._pending.setdefault(key, vector)
            if len(self._pending) == PART_SIZE:
                self._flush()

    def add_images(
        self,
        encoder: ImageEncoder,
        stream: Iterable[ImageResult | EncodedBatch],
        catalogue: Catalogue,
        progress: Progress | None,
    ) -> SpaceVectors:
        """Add rows and vectors of a stream of images in catalogue order, list its failures, and finish.

        Args:
            encoder: The encoder of the stream.
            stream: Results and vectors, as `encode_stream` yields them.
            catalogue: The items whose images these are.
            progress: Called with images done and images in total.

        Returns:
            The rows of the image space.
        """
        total = pc.sum(pc.list_value_length(catalogue.column("images"))).as_py() or 0
        failures: list[ImageFailure] = []
        done = 0
        for result in stream:
            if isinstance(result, EncodedBatch):
                self.add_vectors(result)
                continue
            image, key, refused = result
            if refused is not None:
                failures.append(ImageFailure(image.item_id, image.reference, refused.code, refused.message))
            elif key is not None:
                self.add_row(image.row, image.label, key)
            done += 1
            if progress:
                progress(done, total)
        lines = (orjson.dumps(asdict(failure), option=orjson.OPT_APPEND_NEWLINE) for failure in failures)
        write_file(self.store.folder / "failures.jsonl", b"".join(lines))
        return self.finish("image", encoder, failures=failures)

    def finish(
        self, space: str, encoder: TextEncoder | ImageEncoder, truncated: int = 0, failures: Sequence[ImageFailure] = ()
    ) -> SpaceVectors:
        """Store the last vectors and return the rows."""
        self._flush()
        owners, labels = (np.array(values, dtype=np.int32) for values in (self._owners, self._labels))
        return SpaceVectors(
            space=space,
            store=self.store,
            encoder=encoder.name,
            fingerprint=encoder.fingerprint,
            owners=owners,
            labels=labels,
            keys=as_keys([bytes(self._keys)]),
            encoded=self._encoded,
            truncated=truncated,
            failures=list(failures),
        )

    def _flush(self) -> None:
        if self._pending:
            self.store.append(list(self._pending), np.stack(list(self._pending.values())))
            self._encoded += len(self._pending)
            self._new.difference_update(self._pending)
            self._pending.clear()
