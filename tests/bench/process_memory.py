"""Memory and CPU time of the worker processes of a service, from /proc."""

import os
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Memory(NamedTuple):
    """Memory of all workers together, in bytes: all (PSS, which counts shared memory once), and the anonymous part."""

    at: float
    all: int
    anonymous: int

    @classmethod
    def of(cls, pids: Sequence[int]) -> "Memory":
        """Read the memory of processes; skip those that have ended."""
        at, sums = time.monotonic(), Counter[bytes]()
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()[1:]:
                    name, size = line.split()[:2]
                    sums[name] += int(size) << 10
        return cls(at, sums[b"Pss:"], sums[b"Pss_Anon:"])


def mapped(pids: Sequence[int], folder: Path) -> int:
    """Return the bytes that processes together map of the indexes in a folder (PSS). It is slow."""
    total = 0
    for pid in pids:
        inside = False
        for line in Path(f"/proc/{pid}/smaps").read_bytes().splitlines():
            if line[0] in b"0123456789abcdef":  # a mapping; the names of its figures begin with capitals
                inside = bytes(folder) in line and b"/spaces/" in line
            elif inside and line.startswith(b"Pss:"):
                total += int(line.split()[1]) << 10
    return total


def children(pid: int) -> list[int]:
    """Return the worker processes of a service, without Python's tracker of shared memory."""
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [each for each in found if b"spawn_main" in command_line(each)]


def command_line(pid: int) -> bytes:
    """Return the command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # it has ended
        return b""


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mean(samples: Sequence[Memory], name: str) -> float:
    """Return the mean of an attribute over samples."""
    return float(np.mean([getattr(each, name) for each in samples]))
