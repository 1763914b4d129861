"""Images read ahead of an encoder: by threads, or by processes where one card waits for what many cores decode."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from PIL.Image import Image

from embed.images.decode import ImageRefused, decode_image, is_plain_jpeg
from embed.images.fetch import ImageSource

# The image's key, and it as the encoder takes it, or as the bytes of a JPEG, or None where its key is known.
Outcome = tuple[bytes, Any]
Thing = TypeVar("Thing")

TASKS = 64  # that the images ahead are read in: where batches are large, telling a reader of one costs as much as it


@dataclass(frozen=True)
class Reading:
    """How an image is read: where from, and how it is made ready; `has` tells known keys, of which nothing is decoded.

    With `coded`, plain JPEGs are left as they are, for a card to decode. For processes all of it has to be picklable.
    """

    source: ImageSource
    prepare: Callable[[Image], Any]
    shrink_to: int
    has: Callable[[bytes], bool]
    coded: bool = False

    def read(self, reference: str) -> Outcome:
        """Key and image; raises ImageRefused."""
        key, data = self.source.load(reference, self.has)
        if data is None:
            return key, None
        if self.coded and is_plain_jpeg(data, self.source.limits):
            return key, data
        return key, self.prepared(data)

    def read_each(self, references: list[str]) -> list[Outcome | ImageRefused]:
        """Of each its key and image, or why it is refused."""
        found: list[Outcome | ImageRefused] = []
        for reference in references:
            try:
                found.append(self.read(reference))
            except ImageRefused as refused:
                found.append(refused)
        return found

    def prepared(self, data: bytes) -> Any:
        """The image as the encoder takes it; raises ImageRefused."""
        return self.prepare(decode_image(data, self.source.limits, shrink_to=self.shrink_to))


def read_ahead(
    things: Iterable[Thing], of: Callable[[Thing], str], reading: Reading, readers: int, ahead: int, processes: bool
) -> Iterator[tuple[Thing, Outcome | ImageRefused]]:
    """Things in their order with what reading the image `of` each gives, at most `ahead` of them ahead."""
    pool: Executor
    if processes:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads and a card may hang
        pool = ProcessPoolExecutor(readers, context, _begin, (reading,))
        read: Callable[[list[str]], list[Outcome | ImageRefused]] = _read
    else:
        pool, read = ThreadPoolExecutor(readers, thread_name_prefix="image-reader"), reading.read_each
    together = max(1, ahead // TASKS)
    left = iter(things)
    waiting: deque[tuple[list[Thing], Future[list[Outcome | ImageRefused]]]] = deque()
    try:
        while some := list(islice(left, together)):
            waiting.append((some, pool.submit(read, [of(thing) for thing in some])))
            if len(waiting) * together > ahead:
                yield from _read_by_now(waiting)
        while waiting:
            yield from _read_by_now(waiting)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted job does not wait for images that nobody will take


def _read_by_now(waiting: deque[tuple[list[Thing], Future[list[Any]]]]) -> Iterator[tuple[Thing, Any]]:
    some, outcomes = waiting.popleft()
    yield from zip(some, outcomes.result(), strict=True)


_reading: Reading  # of this process


def _begin(reading: Reading) -> None:
    global _reading  # noqa: PLW0603  what a worker process is begun with
    _reading = reading


def _read(references: list[str]) -> list[Outcome | ImageRefused]:
    return _reading.read_each(references)
