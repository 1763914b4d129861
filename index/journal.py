"""The journal: the live changes since the last build, one record after the other, durable before it is acknowledged.

    FOLDER/
      00000000000000000001.journal    records 1, 2, ... each framed by its length, sequence, time and checksums
      00000000000000000257.journal    a build starts the next segment, so that old segments can be deleted
      .lock                           held while writing; released when its process dies

A record is written in one call and synced. A record that a kill truncated at the very end was never acknowledged; the
next writer removes it. Any other unexpected content is rejected with the name of the file. Any process may write; each
process reads what the others wrote.
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

from index.errors import IndexDamaged

MAX_RECORD = 1 << 30  # bytes
_HEADER = struct.Struct("<IQd8s8s")  # length of the payload, sequence, time; checksums of payload and of all before
_CHECKED = _HEADER.size - 8


class JournalRecord(NamedTuple):
    """`sequence` counts from 1 without gaps; `at` is in epoch seconds and never decreases; `payload` is opaque."""

    sequence: int
    at: float
    payload: bytes


class Journal:
    """A reader of the journal that can also write; `position` is the last sequence read or written.

    A record counts as read when the reader requests the next one: after a failure it is read again.
    """

    def __init__(self, folder: Path, position: int = 0) -> None:
        self._folder = folder
        self.position = position
        self._segment: Path | None = None
        self._offset = 0
        self._at = 0.0

    def read(self) -> Iterator[JournalRecord]:
        """Read the records after `position` and advance it; raises IndexDamaged, which names the segment."""
        while True:
            if self._segment is None and not self._enter_segment():
                return
            assert self._segment is not None  # noqa: S101
            # Listed before reading: a later segment starts only after all records of this one are written.
            newest = max(segment_starts(self._folder), default=0)
            next_segment = self._folder / _file_name(self.position + 1)
            if not self._segment.exists() and next_segment.exists():  # read to its end, and pruned since
                self._segment, self._offset = next_segment, 0
            start = int(self._segment.stem)
            for record, end in _read_segment(self._segment, self._offset):
                expected = start if not self._offset else max(start, min(record.sequence, self.position + 1))
                if record.sequence != expected:
                    raise IndexDamaged(
                        f"{self._segment} continues with record {record.sequence}, expected {expected}: records are "
                        "missing",
                        self._segment.name,
                    )
                if record.sequence > self.position:
                    yield record
                    self.position = record.sequence
                self._offset, self._at = end, record.at
            if newest <= start:
                return
            next_segment = self._folder / _file_name(self.position + 1)
            if next_segment == self._segment or not next_segment.exists():
                raise IndexDamaged(
                    f"{self._segment} ends with record {self.position}, but a later segment starts with record "
                    f"{newest}: records are missing",
                    self._segment.name,
                )
            self._segment, self._offset = next_segment, 0

    @contextmanager
    def lock(self) -> Iterator["JournalWriter"]:
        """Lock out other writers and yield a writer. Read their records first: `JournalWriter.append` requires it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield JournalWriter(self)

    def _last_time(self) -> float:
        """Return the time of the record at `position`, which a journal opened there has not read."""
        starts = segment_starts(self._folder)
        if not self._at and self.position and starts and starts[0] <= self.position:
            before = next(Journal(self._folder, self.position - 1).read(), None)
            self._at = before.at if before else 0.0
        return self._at

    def _enter_segment(self) -> bool:
        """Go to the segment that holds the record after `position`; returns False if there are no segments."""
        segments = segment_starts(self._folder)
        earlier = [start for start in segments if start <= self.position + 1]
        if not earlier:
            if segments:
                raise IndexDamaged(
                    f"{self._folder} starts with record {segments[0]}, but the records after {self.position} are "
                    "needed: records are missing",
                    self._folder.name,
                )
            return False
        self._segment, self._offset = self._folder / _file_name(earlier[-1]), 0
        return True


class JournalWriter:
    """Writes at the end of a journal while the lock keeps other writers out."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def append(self, payloads: Sequence[bytes]) -> list[JournalRecord]:
        """Write records and wait until they are on disk. The journal must have been read to its end before."""
        journal = self._journal
        if next(journal.read(), None) is not None:
            raise AssertionError("the records of another writer were not read before writing")
        if journal._segment is None:
            journal._segment = self._start_segment(journal.position + 1)
            journal._offset = 0
        at = max(time.time(), journal._last_time())
        records = [
            JournalRecord(sequence, at, payload) for sequence, payload in enumerate(payloads, journal.position + 1)
        ]
        with journal._segment.open("r+b") as file:
            file.truncate(journal._offset)  # removes a record that a kill left incomplete
            file.seek(journal._offset)
            file.write(b"".join(map(_frame, records)))
            file.flush()
            os.fsync(file.fileno())
            journal._offset = file.tell()
        journal.position, journal._at = journal.position + len(records), at
        return records

    def rotate(self) -> None:
        """Start a new segment, unless the last one is still empty."""
        journal = self._journal
        next_segment = journal._folder / _file_name(journal.position + 1)
        if journal._segment is not None and next_segment != journal._segment:
            with journal._segment.open("r+b") as file:
                file.truncate(journal._offset)
            journal._segment, journal._offset = self._start_segment(journal.position + 1), 0

    def _start_segment(self, sequence: int) -> Path:
        path = self._journal._folder / _file_name(sequence)
        path.touch()
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return path


def segment_starts(folder: Path) -> list[int]:
    """Return the first sequence of each segment, ascending."""
    return sorted(int(path.stem) for path in folder.glob("*.journal") if path.stem.isdigit())


def prune_segments(folder: Path, needed_after: int) -> None:
    """Delete the segments without records after sequence `needed_after`; always keeps the last segment."""
    starts = segment_starts(folder)
    for start, next_start in pairwise(starts):
        if next_start <= needed_after + 1:
            (folder / _file_name(start)).unlink()


def _read_segment(path: Path, offset: int) -> Iterator[tuple[JournalRecord, int]]:
    """Read the complete records of a segment from a byte offset on, each with the offset of its end."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise IndexDamaged(f"{path} is missing", path.name) from error
    with file:
        file.seek(offset)
        while True:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return  # the end, or a record that is being written
            length, sequence, at, payload_sum, header_sum = _HEADER.unpack(header)
            if _checksum(header[:_CHECKED]) != header_sum:
                raise IndexDamaged(
                    f"{path} is damaged at byte {offset}: move it away to continue without it", path.name
                )
            payload = file.read(length)
            if len(payload) < length:
                return
            if _checksum(payload) != payload_sum:
                raise IndexDamaged(
                    f"{path} is damaged in record {sequence} at byte {offset}: move it away to continue without it",
                    path.name,
                )
            offset += _HEADER.size + length
            yield JournalRecord(sequence, at, payload), offset


def _frame(record: JournalRecord) -> bytes:
    if len(record.payload) > MAX_RECORD:
        raise ValueError(f"the record has {len(record.payload):,} bytes, the maximum is {MAX_RECORD:,}")
    checksum = _checksum(record.payload)
    header = _HEADER.pack(len(record.payload), record.sequence, record.at, checksum, bytes(8))[:_CHECKED]
    return header + _checksum(header) + record.payload


def _file_name(sequence: int) -> str:
    return f"{sequence:020d}.journal"


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=8).digest()
