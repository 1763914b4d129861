"""Throttles requests to other hosts: few at a time to one host, and retries with back-off for a busy one."""

import random
import threading
import time
from collections.abc import Callable

from embed.images.decode import ImageRefused

MAX_CONCURRENT = 4  # requests to one host
FIRST_WAIT_S, MAX_WAIT_S = 0.5, 30.0
MAX_FAILURES = 10  # consecutive requests that failed in all tries; then the host is not called for a while
COOL_DOWN_S = 60.0


class HostBusy(Exception):
    """A failure that a retry may fix: a timeout, a lost connection, a server that is down or overloaded.

    `after_s` is the wait in seconds that the host asked for, 0 if it named none.
    """

    def __init__(self, refused: ImageRefused, after_s: float = 0.0) -> None:
        super().__init__(refused.message)
        self.refused = refused
        self.after_s = after_s


class _Host:
    def __init__(self) -> None:
        self.free = threading.BoundedSemaphore(MAX_CONCURRENT)
        self.not_before = 0.0  # by the monotonic clock
        self.failed = 0  # consecutive requests
        self.closed_until = 0.0


class HostThrottle:
    """Limits and retries the calls to each host; thread-safe."""

    def __init__(self, tries: int) -> None:
        self._tries = tries
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def call(self, name: str, request: Callable[[], bytes]) -> bytes:
        """Return the result of a request to the host `name`; retry when it raises HostBusy.

        Raises ImageRefused after the last try.
        """
        with self._lock:
            host = self._hosts.setdefault(name, _Host())
        for left in reversed(range(self._tries)):
            with host.free:
                if host.failed >= MAX_FAILURES and time.monotonic() < host.closed_until:
                    raise ImageRefused("fetch_failed", f"{name} failed {host.failed} times in a row: retry later")
                time.sleep(max(0.0, host.not_before - time.monotonic()))
                try:
                    data = request()
                    host.failed = 0
                    return data
                except HostBusy as busy:
                    if not left:
                        host.failed += 1
                        host.closed_until = time.monotonic() + COOL_DOWN_S
                        raise busy.refused from busy
                    # All callers of this host wait, for random times, or they would return together.
                    wait = FIRST_WAIT_S * 2.0 ** (self._tries - 1 - left) * random.uniform(1, 1.5)
                    wait = min(max(wait, busy.after_s), MAX_WAIT_S)
                    host.not_before = max(host.not_before, time.monotonic() + wait)
        raise AssertionError("at least one try")
