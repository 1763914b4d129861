"""Reads images ahead of an encoder, by threads, or by processes where one GPU waits for many cores to decode."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from embed.images.image_reader import ImageReader, Outcome, use_one_thread
from embed.images.reading_processes import ReadingProcesses

Entry = TypeVar("Entry")
TASK_SIZE = 8  # images that a reader takes at once; one at a time would cost as much as reading it
TASKS_EACH = 4  # that wait for a reader at least, so that none is idle


class ReadingThreads:
    """A pool of threads that read images."""

    def __init__(self, reader: ImageReader, threads: int) -> None:
        self._read = reader.read_each
        self._pool = ThreadPoolExecutor(threads, "image-reader", use_one_thread)

    def submit(self, references: list[str]) -> Callable[[], list[Outcome]]:
        """Read several images; return a function that waits for them."""
        return self._pool.submit(self._read, references).result

    def shutdown(self) -> None:
        """Stop, without the images that are not begun."""
        self._pool.shutdown(cancel_futures=True)


def read_ahead(
    entries: Iterable[Entry],
    reference: Callable[[Entry], str],
    reader: ImageReader,
    readers: int,
    ahead: int,
    processes: bool,
) -> Iterator[tuple[Entry, Outcome]]:
    """Read the image of each entry in a pool, and yield the entries in order with their images.

    Args:
        entries: What to read images for.
        reference: Returns where the image of an entry is.
        reader: Reads one image.
        readers: Threads or processes of the pool.
        ahead: Maximum of images that are read before they are taken.
        processes: Use processes.
    """
    task_size = min(TASK_SIZE, max(1, ahead // (readers * TASKS_EACH)))
    tasks = ahead // task_size + 1
    pool = ReadingProcesses(reader, readers, tasks, task_size) if processes else ReadingThreads(reader, readers)
    remaining = iter(entries)
    waiting: deque[tuple[list[Entry], Callable[[], list[Outcome]]]] = deque()
    try:
        while task := list(islice(remaining, task_size)):
            waiting.append((task, pool.submit([reference(entry) for entry in task])))
            if len(waiting) == tasks:
                yield from _next_read(waiting)
        while waiting:
            yield from _next_read(waiting)
    finally:
        pool.shutdown()  # an interrupted job does not wait for images that nothing will use


def _next_read(waiting: deque[tuple[list[Entry], Callable[[], list[Outcome]]]]) -> Iterator[tuple[Entry, Outcome]]:
    task, wait = waiting.popleft()
    yield from zip(task, wait(), strict=True)
