"""Asking other people's machines: few requests to one host at a time, and again, later, where it was only busy."""

import random
import threading
import time
from collections.abc import Callable

from embed.images.decode import ImageRefused

AT_ONCE = 4  # requests to one host
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
GIVEN_UP_AFTER = 10  # requests in a row that failed in every try: then a host is left alone for a while
LEFT_ALONE_S = 60.0


class Busy(Exception):
    """A refusal that may not be the last word: a time-out, a broken connection, a server that is down or overrun.

    `after_s` is how long the host wants to be left alone, as far as it said so.
    """

    def __init__(self, refused: ImageRefused, after_s: float = 0.0) -> None:
        super().__init__(refused.message)
        self.refused = refused
        self.after_s = after_s


class _Host:
    def __init__(self) -> None:
        self.free = threading.BoundedSemaphore(AT_ONCE)
        self.not_before = 0.0  # by the monotonic clock
        self.failed = 0  # requests in a row
        self.closed_until = 0.0


class Hosts:
    """How often and how soon each host is asked; one instance serves all threads."""

    def __init__(self, tries: int) -> None:
        self._tries = tries
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()

    def ask(self, name: str, ask: Callable[[], bytes]) -> bytes:
        """What `ask` gives, which raises Busy where it may be asked again; raises ImageRefused when tries run out."""
        with self._lock:
            host = self._hosts.setdefault(name, _Host())
        for left in reversed(range(self._tries)):
            with host.free:
                if host.failed >= GIVEN_UP_AFTER and time.monotonic() < host.closed_until:
                    raise ImageRefused("fetch_failed", f"{name} failed {host.failed} times in a row: left for later")
                time.sleep(max(0.0, host.not_before - time.monotonic()))
                try:
                    data = ask()
                    host.failed = 0
                    return data
                except Busy as busy:
                    if not left:
                        host.failed += 1
                        host.closed_until = time.monotonic() + LEFT_ALONE_S
                        raise busy.refused from busy
                    # All who ask this host wait, and not all for as long, or they would come back together.
                    wait = FIRST_WAIT_S * 2.0 ** (self._tries - 1 - left) * random.uniform(1, 1.5)
                    wait = min(max(wait, busy.after_s), LONGEST_WAIT_S)
                    host.not_before = max(host.not_before, time.monotonic() + wait)
        raise AssertionError("at least one try")
