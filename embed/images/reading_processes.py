"""Processes that read photos for this one: a GPU encodes faster than the threads of one process decode.

Prepared photos come back through memory that the processes share, not through pipes.
"""

import mmap
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from enum import Enum
from functools import partial
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.images.decode import ImageRefused
from embed.images.image_reader import ImageReader, Outcome, use_one_thread


class Place(Enum):
    """Where a prepared photo is, if it is not in the answer of a process."""

    SHARED = "shared"


class SharedArrays:
    """Memory for arrays [count, *shape] that this process and its child processes share.

    It is no file in /dev/shm, of which a container has 64 MB.
    """

    def __init__(self, count: int, shape: Sequence[int], dtype: Any) -> None:
        self._descriptor = os.memfd_create("vetrina-photos")
        os.ftruncate(self._descriptor, count * int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self.arrays = _map(self._descriptor, (count, *shape), dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        """Support sending to a child process when it starts."""
        return _attach, (DupFd(self._descriptor), self.arrays.shape, self.arrays.dtype)

    def close(self) -> None:
        """Give the memory back once no array uses it."""
        os.close(self._descriptor)
        del self.arrays


class ReadingProcesses:
    """A pool of processes that read photos, at most `tasks` lists of `task_size` references ahead."""

    def __init__(self, reader: ImageReader, processes: int, tasks: int, task_size: int) -> None:
        example = reader.prepare(np.zeros((8, 8, 3), np.uint8))
        shape, dtype = (example.shape, example.dtype) if isinstance(example, np.ndarray) else ((1,), np.uint8)
        self._shared = SharedArrays(tasks, (task_size, *shape), dtype)
        self._free = deque(range(tasks))
        context = multiprocessing.get_context("spawn")  # forking a process that has threads and a GPU may hang
        start: Callable[..., None] = _start  # it gets the arrays themselves
        self._pool = ProcessPoolExecutor(processes, context, start, (reader, self._shared))

    def submit(self, references: list[str]) -> Callable[[], list[Outcome]]:
        """Read several images; return a function that waits for them, to be called once."""
        task = self._free.popleft()
        return partial(self._take, task, self._pool.submit(_read, task, references))

    def shutdown(self) -> None:
        """Stop, without the images that are not begun."""
        self._pool.shutdown(cancel_futures=True)
        self._shared.close()

    def _take(self, task: int, read: Future[list[Outcome]]) -> list[Outcome]:
        outcomes = read.result()
        arrays = self._shared.arrays[task, : len(outcomes)].copy()
        self._free.append(task)
        return [
            outcome if isinstance(outcome, ImageRefused) or outcome[1] is not Place.SHARED else (outcome[0], array)
            for outcome, array in zip(outcomes, arrays, strict=True)
        ]


def _map(descriptor: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return np.frombuffer(mmap.mmap(descriptor, 0), dtype, count=int(np.prod(shape))).reshape(shape)


def _attach(descriptor: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return _map(descriptor.detach(), shape, dtype)


_reader: ImageReader  # of this child process
_arrays: NDArray[Any]  # [tasks, task_size, *shape]


def _start(reader: ImageReader, arrays: NDArray[Any]) -> None:
    global _reader, _arrays
    _reader, _arrays = reader, arrays
    use_one_thread()


def _read(task: int, references: list[str]) -> list[Outcome]:
    """Read images; those of the common shape stay in the shared memory."""
    return [_shared(outcome, room) for outcome, room in zip(_reader.read_each(references), _arrays[task], strict=False)]


def _shared(outcome: Outcome, room: NDArray[Any]) -> Outcome:
    if isinstance(outcome, ImageRefused):
        return outcome
    key, prepared = outcome
    if not isinstance(prepared, np.ndarray) or (prepared.shape, prepared.dtype) != (room.shape, room.dtype):
        return outcome
    room[...] = prepared
    return key, Place.SHARED
