"""The journal: what changed since the last build, one record after the other, durable before it is acknowledged.

    FOLDER/
      00000000000000000001.journal    records 1, 2, ... each framed by its length, number, time and checksums
      00000000000000000257.journal    the next segment starts where a build began, so that old ones can go
      .lock                           held while writing; the lock dies with its process

A record is written in one go and synced. What a kill cuts off at the very end was never acknowledged and is cut off
for good by the next writer; anything else that is not as written is refused by name. Any process may write; each reads
what the others wrote.
"""

import fcntl
import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from index.errors import Damaged

MAX_RECORD = 1 << 30
_HEADER = struct.Struct("<IQd8s8s")  # length of the payload, sequence, time; checksums of payload and of all before
_CHECKED = _HEADER.size - 8


class Record(NamedTuple):
    """`sequence` counts from 1 without gaps; `at` is in epoch seconds and never falls; `payload` is the caller's."""

    sequence: int
    at: float
    payload: bytes


class Journal:
    """A reader at one place in the journal that can also write; `position` is the last sequence read or written.

    A record counts as read when the next one is asked for: one that its reader fails at comes again.
    """

    def __init__(self, folder: Path, position: int = 0) -> None:
        self._folder = folder
        self.position = position
        self._segment: Path | None = None
        self._offset = 0
        self._at = 0.0

    def read(self) -> Iterator[Record]:
        """The records after `position`, which moves on with each; raises Damaged naming the segment."""
        while True:
            if self._segment is None and not self._enter():
                return
            assert self._segment is not None  # noqa: S101
            # Listed before reading: what begins a later segment was written after all that this one holds.
            newest = max(segment_starts(self._folder), default=0)
            following = self._folder / _name(self.position + 1)
            if not self._segment.exists() and following.exists():  # read to its end, and pruned since
                self._segment, self._offset = following, 0
            start = int(self._segment.stem)
            for record, end in _records(self._segment, self._offset):
                expected = start if not self._offset else max(start, min(record.sequence, self.position + 1))
                if record.sequence != expected:
                    raise Damaged(
                        f"{self._segment} goes on with record {record.sequence}, expected {expected}: records are "
                        "missing",
                        self._segment.name,
                    )
                if record.sequence > self.position:
                    yield record
                    self.position = record.sequence
                self._offset, self._at = end, record.at
            if newest <= start:
                return
            following = self._folder / _name(self.position + 1)
            if following == self._segment or not following.exists():
                raise Damaged(
                    f"{self._segment} ends with record {self.position}, but there are records from {newest} on",
                    self._segment.name,
                )
            self._segment, self._offset = following, 0

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """Keep other writers out. What they wrote meanwhile is to be read first: `Writer.append` insists on it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Writer(self)

    def _time_before(self) -> float:
        """The time of the record at `position`, which a journal opened there has not read."""
        starts = segment_starts(self._folder)
        if not self._at and self.position and starts and starts[0] <= self.position:
            before = next(Journal(self._folder, self.position - 1).read(), None)
            self._at = before.at if before else 0.0
        return self._at

    def _enter(self) -> bool:
        """Go to the segment that holds the record after `position`."""
        segments = segment_starts(self._folder)
        held = [start for start in segments if start <= self.position + 1]
        if not held:
            if segments:
                raise Damaged(
                    f"{self._folder} begins with record {segments[0]}, wanted are those after {self.position}",
                    self._folder.name,
                )
            return False
        self._segment, self._offset = self._folder / _name(held[-1]), 0
        return True


class Writer:
    """Writes at the end of a journal while no one else does."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def append(self, payloads: Sequence[bytes]) -> list[Record]:
        """Write records and wait until they are on disk. The journal must have been read to its end before."""
        journal = self._journal
        if next(journal.read(), None) is not None:
            raise AssertionError("records of another writer were not read before writing")
        if journal._segment is None:
            journal._segment = self._begin(journal.position + 1)
            journal._offset = 0
        at = max(time.time(), journal._time_before())
        records = [Record(journal.position + 1 + number, at, payload) for number, payload in enumerate(payloads)]
        with journal._segment.open("r+b") as file:
            file.truncate(journal._offset)  # what a kill left half written
            file.seek(journal._offset)
            file.write(b"".join(map(_framed, records)))
            file.flush()
            os.fsync(file.fileno())
            journal._offset = file.tell()
        journal.position, journal._at = journal.position + len(records), at
        return records

    def rotate(self) -> None:
        """Begin a new segment, unless the last one is empty still."""
        journal = self._journal
        following = journal._folder / _name(journal.position + 1)
        if journal._segment is not None and following != journal._segment:
            with journal._segment.open("r+b") as file:
                file.truncate(journal._offset)
            journal._segment, journal._offset = self._begin(journal.position + 1), 0

    def _begin(self, sequence: int) -> Path:
        path = self._journal._folder / _name(sequence)
        path.touch()
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return path


def segment_starts(folder: Path) -> list[int]:
    """The first sequence of each segment, rising."""
    return sorted(int(path.stem) for path in folder.glob("*.journal") if path.stem.isdigit())


def prune(folder: Path, needed_after: int) -> None:
    """Delete the segments that hold nothing after sequence `needed_after`; the last one always stays."""
    starts = segment_starts(folder)
    for start, following in pairwise(starts):
        if following <= needed_after + 1:
            (folder / _name(start)).unlink()


def _records(path: Path, offset: int) -> Iterator[tuple[Record, int]]:
    """The whole records of a segment from `offset` on, each with where it ends."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise Damaged(f"{path} is gone", path.name) from error
    with file:
        file.seek(offset)
        while True:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return  # the end, or a record that is being written
            length, sequence, at, payload_sum, header_sum = _HEADER.unpack(header)
            if _sum(header[:_CHECKED]) != header_sum:
                raise Damaged(f"{path} is damaged at byte {offset}: move it away to go on without it", path.name)
            payload = file.read(length)
            if len(payload) < length:
                return
            if _sum(payload) != payload_sum:
                raise Damaged(
                    f"{path} is damaged in record {sequence} at byte {offset}: move it away to go on without it",
                    path.name,
                )
            offset += _HEADER.size + length
            yield Record(sequence, at, payload), offset


def _framed(record: Record) -> bytes:
    if len(record.payload) > MAX_RECORD:
        raise ValueError(f"a record of {len(record.payload)} bytes is longer than {MAX_RECORD}")
    header = _HEADER.pack(len(record.payload), record.sequence, record.at, _sum(record.payload), bytes(8))[:_CHECKED]
    return header + _sum(header) + record.payload


def _name(sequence: int) -> str:
    return f"{sequence:020d}.journal"


def _sum(data: bytes) -> bytes:
    return blake2b(data, digest_size=8).digest()
