"""Reads images ahead of an encoder, by threads, or by processes where one GPU waits for many cores to decode."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from embed.images.decode import ImageRefused, decode_pixels
from embed.images.fetch import ImageSource
from embed.images.preprocessing import Pixels

# The image's key, and the image prepared for the encoder, or None if the key has a vector.
ReadImage = tuple[bytes, Any]
Entry = TypeVar("Entry")

MAX_TASKS = 16  # that the images ahead are split into; one task per image would cost as much as reading it


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

    def read_each(self, references: list[str]) -> list[ReadImage | ImageRefused]:
        """Read several images; the result of each is the image or its refusal."""
        results: list[ReadImage | ImageRefused] = []
        for reference in references:
            try:
                results.append(self.read(reference))
            except ImageRefused as refused:
                results.append(refused)
        return results


def read_ahead(
    entries: Iterable[Entry],
    reference: Callable[[Entry], str],
    reader: ImageReader,
    readers: int,
    ahead: int,
    processes: bool,
) -> Iterator[tuple[Entry, ReadImage | ImageRefused]]:
    """Read the image of each entry in a pool, and yield the entries in order with their images.

    Args:
        entries: What to read images for.
        reference: Returns where the image of an entry is.
        reader: Reads one image.
        readers: Threads or processes of the pool.
        ahead: Maximum of images that are read before they are taken.
        processes: Use processes.
    """
    pool: Executor
    if processes:
        context = multiprocessing.get_context("spawn")  # forking a process that has threads and a GPU may hang
        pool = ProcessPoolExecutor(readers, context, _start_worker, (reader,))
        read: Callable[[list[str]], list[ReadImage | ImageRefused]] = _read_in_worker
    else:
        pool, read = ThreadPoolExecutor(readers, "image-reader", _use_one_thread), reader.read_each
    task_size = max(1, ahead // MAX_TASKS)
    remaining = iter(entries)
    waiting: deque[tuple[list[Entry], Future[list[ReadImage | ImageRefused]]]] = deque()
    try:
        while task := list(islice(remaining, task_size)):
            waiting.append((task, pool.submit(read, [reference(entry) for entry in task])))
            if len(waiting) * task_size > ahead:
                yield from _next_read(waiting)
        while waiting:
            yield from _next_read(waiting)
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupted job does not wait for images that nothing will use


def _next_read(waiting: deque[tuple[list[Entry], Future[list[Any]]]]) -> Iterator[tuple[Entry, Any]]:
    task, results = waiting.popleft()
    yield from zip(task, results.result(), strict=True)


_worker_reader: ImageReader  # of this worker process


def _use_one_thread() -> None:
    """Keep torch from sharing the work on one photo among the cores: every core has a reader."""
    import torch

    torch.set_num_threads(1)  # of this thread, and of those that start after it


def _start_worker(reader: ImageReader) -> None:
    global _worker_reader  # noqa: PLW0603  set once when a worker process starts
    _worker_reader = reader
    _use_one_thread()


def _read_in_worker(references: list[str]) -> list[ReadImage | ImageRefused]:
    return _worker_reader.read_each(references)
