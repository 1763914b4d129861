"""The offline encode job: catalogue to vector store, only what is new, resumable at any instant.

Images are read, hashed and decoded by threads that run ahead; the encoder takes them in catalogue order. Each 1,024
new vectors are one part of the store. As new content is always met in the same order and parts are written in that
order, a job that was killed leaves whole parts behind, and the next run cuts the rest into the very same batches: the
bytes come out as if nothing had happened.
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

from embed.catalogue import Catalogue, Item
from embed.compose import compose_texts
from embed.encoders import ImageEncoder, TextEncoder, Vectors
from embed.encoders.encoder import Prepared
from embed.images import ImageRefused, ImageSource
from embed.images.reading import Outcome, Reading, read_ahead
from embed.vector_store import Keys, UserContext, VectorStore, as_keys, content_key

PART = 1024  # vectors a crash may cost; a multiple of every CPU batch size, so that batches never straddle parts
FLYING = 2  # batches that are encoded at once, so that no core waits for the last of one before the next begins
READ_AHEAD = 2  # batches of decoded images that wait for the encoder, at most
Progress = Callable[[int, int], None]  # done, total


class Reference(NamedTuple):
    """An image of an item: the item's catalogue row, which of its images it is, and where to read it."""

    row: int
    label: int
    item_id: str
    reference: str


class Seen(NamedTuple):
    """An image that was read: its key, or why it was refused."""

    image: Reference
    key: bytes | None = None
    refused: ImageRefused | None = None


class Encoded(NamedTuple):
    """The vectors [n, dim] of n contents that had none, by their keys."""

    keys: Sequence[bytes]
    vectors: Vectors


@dataclass(frozen=True)
class Failure:
    """An image that could not be used: the item keeps its text, the next run tries again."""

    item_id: str
    image: str
    code: str
    reason: str


@dataclass
class SpaceVectors:
    """The rows of a space: `owners[i]` is the catalogue row whose content has key `keys[i]`; owners never decrease.

    `labels[i]` tells which of the item's images the row is, or whether it is headline or description.
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
    failures: list[Failure] = field(default_factory=list)

    @property
    def dim(self) -> int:
        return self.store.dim

    def gather(self, out: Vectors) -> None:
        """Copy the rows' vectors into `out` [n, dim]."""
        self.store.gather(self.keys, out)


def encode_texts(
    store: Path, catalogue: Catalogue, encoder: TextEncoder, progress: Progress | None = None
) -> SpaceVectors:
    """Encode what the items say; a row for each headline and each description."""
    job = Job(VectorStore(store, "text", encoder.fingerprint, encoder.dim))
    truncated = 0
    waiting: list[tuple[bytes, str]] = []

    def flush() -> None:
        nonlocal truncated
        found = encoder.encode_texts([text for _, text in waiting])
        truncated += found.truncated
        job.take(Encoded([key for key, _ in waiting], found.vectors))
        waiting.clear()

    for row, label, key, text in texts(catalogue):
        if job.note(row, label, key):
            waiting.append((key, text))
            if len(waiting) == PART:
                flush()
        if progress:
            progress(row + 1, len(catalogue))
    if waiting:
        flush()
    if progress:  # the last items may have no words
        progress(len(catalogue), len(catalogue))
    return job.finish("text", encoder, truncated=truncated)


def texts(catalogue: Catalogue) -> Iterator[tuple[int, int, bytes, str]]:
    """Every text of every item, in the catalogue's order: the item's row, which text it is, its key and the text."""
    for row, item in enumerate(_items(catalogue)):
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
    """Encode every image of every item; one row for each. Failures are counted and listed in `failures.jsonl`.

    Images are read by so many threads, or `processes`, in which case the calling script must be importable.
    """
    job = Job(VectorStore(store, "image", encoder.fingerprint, encoder.dim))
    # Processes know what the store has now, not what is met twice in this run.
    known = UserContext(job.store.keys()).__contains__ if processes else job.has
    reading = Reading(source, encoder.prepare, encoder.shrink_to, known, coded=encoder.decode is not None)
    return job.take_images(
        encoder, encoded(references(catalogue), encoder, reading, job.has, readers, processes), catalogue, progress
    )


def references(catalogue: Catalogue) -> Iterator[Reference]:
    """Every image of every item, in the catalogue's order."""
    for row, item in enumerate(_items(catalogue)):
        for label, image in enumerate(item.images):
            yield Reference(row, label, item.item_id, image)


def encoded(
    images: Iterable[Reference],
    encoder: ImageEncoder,
    reading: Reading,
    has: Callable[[bytes], bool],
    readers: int,
    processes: bool = False,
) -> Iterator[Seen | Encoded]:
    """Each image in their order, and in between the vectors of those before that `has` does not know by their keys.

    What was given out counts as known from then on.
    """
    keys: list[bytes] = []
    prepared: list[Prepared] = []
    flying: deque[tuple[list[bytes], Future[Vectors]]] = deque()
    ahead = READ_AHEAD * encoder.batch
    with ThreadPoolExecutor(FLYING, thread_name_prefix="encoding") as pool:
        read = read_ahead(images, lambda image: image.reference, reading, readers, ahead, processes)
        for seen, pixels in _decoded(read, encoder, reading):
            new = pixels is not None and seen.key is not None and not has(seen.key)
            yield seen
            if new and seen.key is not None:
                keys.append(seen.key)
                prepared.append(pixels)
            if len(prepared) == encoder.batch:
                if len(flying) == FLYING:
                    yield _landed(flying)
                flying.append((keys, pool.submit(encoder.encode_images, prepared)))
                keys, prepared = [], []
        if prepared:
            flying.append((keys, pool.submit(encoder.encode_images, prepared)))
        while flying:
            yield _landed(flying)


def _decoded(
    read: Iterable[tuple[Reference, Outcome | ImageRefused]], encoder: ImageEncoder, reading: Reading
) -> Iterator[tuple[Seen, Prepared]]:
    """Each image in their order, as the encoder takes it; None for one that is known or refused.

    JPEGs for a card wait for others, to be decoded together.
    """
    waiting: list[tuple[Seen, Prepared]] = []
    coded = 0
    for image, outcome in read:
        if isinstance(outcome, ImageRefused):
            waiting.append((Seen(image, refused=outcome), None))
        else:
            key, made = outcome
            waiting.append((Seen(image, key), made))
            coded += isinstance(made, bytes)
        if not coded or len(waiting) == encoder.batch:
            yield from _on_gpu(waiting, encoder, reading)
            waiting, coded = [], 0
    yield from _on_gpu(waiting, encoder, reading)


def _on_gpu(
    waiting: list[tuple[Seen, Prepared]], encoder: ImageEncoder, reading: Reading
) -> Iterator[tuple[Seen, Prepared]]:
    """The same with all JPEGs decoded; those that a card leaves, as others are."""
    coded = [made for _, made in waiting if isinstance(made, bytes)]
    decoded = iter(encoder.decode(coded) if coded and encoder.decode is not None else ())
    for seen, made in waiting:
        pixels = next(decoded) if isinstance(made, bytes) else made
        if pixels is None and isinstance(made, bytes):
            try:
                pixels = reading.prepared(made)
            except ImageRefused as refused:
                yield Seen(seen.image, refused=refused), None
                continue
        yield seen, pixels


def _landed(flying: "deque[tuple[list[bytes], Future[Vectors]]]") -> Encoded:
    keys, vectors = flying.popleft()
    return Encoded(keys, vectors.result())


class Job:
    """The growing table of rows of one space, and which keys have a vector or are about to get one."""

    def __init__(self, store: VectorStore) -> None:
        self.store = store
        self._owners = array("i")
        self._labels = array("i")
        self._keys = bytearray()
        self._new: set[bytes] = set()
        self._waiting: dict[bytes, NDArray[np.float32]] = {}
        self._encoded = 0

    def has(self, key: bytes) -> bool:
        return key in self._new or bool(self.store.known(as_keys([key]))[0])

    def note(self, owner: int, label: int, key: bytes) -> bool:
        """Give the item a row; whether the content is new and is to be encoded."""
        self._owners.append(owner)
        self._labels.append(label)
        self._keys += key
        new = not self.has(key)
        if new:
            self._new.add(key)
        return new

    def take(self, encoded: Encoded) -> None:
        """Keep vectors of what was noted as new, in parts that are cut alike however they come."""
        for key, vector in zip(encoded.keys, encoded.vectors, strict=True):
            if key in self._new:  # two machines may have met the same image
                self._waiting.setdefault(key, vector)
            if len(self._waiting) == PART:
                self._flush()

    def take_images(
        self, encoder: ImageEncoder, found: Iterable[Seen | Encoded], catalogue: Catalogue, progress: Progress | None
    ) -> SpaceVectors:
        """Keep what becomes of the images, which come in the catalogue's order."""
        total = pc.sum(pc.list_value_length(catalogue.column("images"))).as_py() or 0
        failures: list[Failure] = []
        done = 0
        for one in found:
            if isinstance(one, Encoded):
                self.take(one)
                continue
            image, key, refused = one
            if refused is not None:
                failures.append(Failure(image.item_id, image.reference, refused.code, refused.message))
            elif key is not None:
                self.note(image.row, image.label, key)
            done += 1
            if progress:
                progress(done, total)
        _write_failures(self.store.folder / "failures.jsonl", failures)
        return self.finish("image", encoder, failures=failures)

    def finish(
        self, space: str, encoder: TextEncoder | ImageEncoder, truncated: int = 0, failures: Sequence[Failure] = ()
    ) -> SpaceVectors:
        self._flush()
        owners, labels = (np.array(numbers, dtype=np.int32) for numbers in (self._owners, self._labels))
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
        if self._waiting:
            self.store.append(list(self._waiting), np.stack(list(self._waiting.values())))
            self._encoded += len(self._waiting)
            self._new.difference_update(self._waiting)
            self._waiting.clear()


def _items(catalogue: Catalogue) -> Iterator[Item]:
    for batch in catalogue.batches():
        yield from batch


def _write_failures(path: Path, failures: list[Failure]) -> None:
    fresh = path.with_suffix(".tmp")
    fresh.write_bytes(b"".join(orjson.dumps(asdict(failure)) + b"\n" for failure in failures))
    fresh.replace(path)
