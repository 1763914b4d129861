"""Images read ahead of an encoder: by threads, or by processes where one card waits for what many cores decode."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from PIL.Image import Image

from embed.images.decode import decode_image
from embed.images.fetch import ImageSource

Outcome = tuple[bytes, Any]  # the image's key, and it as the encoder takes it, or None where its key is known
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Reading:
    """How an image is read: where from, and how it is made ready; `has` tells known keys, of which nothing is decoded.

    For processes all of it has to be picklable.
    """

    source: ImageSource
    prepare: Callable[[Image], Any]
    shrink_to: int
    has: Callable[[bytes], bool]

    def read(self, reference: str) -> Outcome:
        """Key and prepared image; raises ImageRefused."""
        key, data = self.source.load(reference, self.has)
        if data is None:
            return key, None
        return key, self.prepare(decode_image(data, self.source.limits, shrink_to=self.shrink_to))


def read_ahead(
    things: Iterable[Thing], of: Callable[[Thing], str], reading: Reading, readers: int, ahead: int, processes: bool
) -> Iterator[tuple[Thing, "Future[Outcome]"]]:
    """Things in their order with what reading the image `of` each gives, at most `ahead` of them ahead."""
    pool: Executor
    if processes:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads and a card may hang
        pool = ProcessPoolExecutor(readers, context, _begin, (reading,))
        read: Callable[[str], Outcome] = _read
    else:
        pool, read = ThreadPoolExecutor(readers, thread_name_prefix="image-reader"), reading.read
    try:
        waiting: deque[tuple[Thing, Future[Outcome]]] = deque()
        for thing in things:
            waiting.append((thing, pool.submit(read, of(thing))))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted job does not wait for images that nobody will take


_reading: Reading  # of this process


def _begin(reading: Reading) -> None:
    global _reading  # noqa: PLW0603  what a worker process is begun with
    _reading = reading


def _read(reference: str) -> Outcome:
    return _reading.read(reference)
