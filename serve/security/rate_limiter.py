"""Rate limits of API keys by the generic cell rate algorithm, counted by all processes of a machine together.

For each key one number is stored: the time at which its next request is due if requests arrive evenly (ITU-T I.371,
virtual scheduling). It is in a file that all workers map, under a lock of its own, so that a limit holds for the
machine and not for each worker.
"""

import fcntl
import math
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from serve.security.api_keys import MAX_KEYS

BURST_SECONDS = 2.0  # requests of so many seconds may arrive at once after a pause
_DUE = struct.Struct("d")
SIZE = MAX_KEYS * _DUE.size


@dataclass(frozen=True)
class Allowance:
    """Whether a request is allowed, how many more are allowed at once, and the seconds until the next one is."""

    ok: bool
    remaining: int
    wait: float


class RateLimiter:
    """Counts requests by key number, together with the other processes that share `file`, or in this process only."""

    def __init__(self, file: Path | None = None) -> None:
        self._descriptor: int | None = None
        if file is None:
            self._due = mmap.mmap(-1, SIZE)
        else:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(self._descriptor, SIZE)
            self._due = mmap.mmap(self._descriptor, SIZE)

    def take(self, number: int, rate: float) -> Allowance:
        """Count a request of a key with `rate` requests a second if it is allowed."""
        offset, interval, burst = number * _DUE.size, 1 / rate, max_burst(rate)
        if self._descriptor is not None:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, _DUE.size, offset)
        try:
            # On Linux the monotonic clock is the same for all processes.
            now = time.monotonic()
            (due,) = _DUE.unpack_from(self._due, offset)
            due = max(due, now)
            early = due - now - (burst - 1) * interval
            if early > 1e-9:
                return Allowance(False, 0, early)
            due += interval
            _DUE.pack_into(self._due, offset, due)
            return Allowance(True, math.floor(burst - (due - now) * rate + 1e-6), 0.0)
        finally:
            if self._descriptor is not None:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, _DUE.size, offset)


def max_burst(rate: float) -> int:
    """Return how many requests of a key with this rate may arrive at once."""
    return max(1, math.ceil(rate * BURST_SECONDS))
