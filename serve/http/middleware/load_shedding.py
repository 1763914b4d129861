"""Load shedding: how many requests may be answered at once, so that those that are accepted stay fast.

A process that takes more than it can answer makes everybody wait. This one holds the number in flight to what keeps
19 in 20 answers within the target, and refuses the others at once. The number is found by additive increase and
multiplicative decrease (Chiu & Jain 1989): one more when all places were taken and answers were in time, a tenth fewer
when they were late.
"""

import asyncio
import time

from serve.core.metrics import IN_FLIGHT, MAX_IN_FLIGHT

WINDOW = 40  # answers after which the number is thought over
LEAST, MOST, FIRST = 4, 256, 16  # as many as a slow encoder on a few cores may have at once in any case
LAG_SECONDS = 0.01


class LoadShedder:
    """Admits requests while there is room; `target` seconds are what answers may take. For one event loop."""

    def __init__(self, target: float) -> None:
        self._target = target
        self.limit = float(FIRST)
        self.in_flight = 0
        self._peak = 0
        self._took: list[float] = []
        self._lag = 0.0
        self._task: asyncio.Task[None] | None = None
        MAX_IN_FLIGHT.set(self.limit)

    def start(self) -> None:
        """Watch how late the event loop is: a request waits for it before anything here sees it."""
        self._task = asyncio.create_task(self._watch())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def admit(self) -> bool:
        """Whether a request may be answered; if so, `done` has to be told in the end."""
        if self.in_flight >= self.limit or (self._lag > self._target and self.in_flight >= LEAST):
            return False
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)
        IN_FLIGHT.set(self.in_flight)
        return True

    def done(self, took: float) -> None:
        """An admitted request was answered after so many seconds."""
        self.in_flight -= 1
        IN_FLIGHT.set(self.in_flight)
        self._took.append(took + self._lag)
        if len(self._took) == WINDOW:
            late = sorted(self._took)[WINDOW * 19 // 20] > self._target
            if late:
                self.limit = max(LEAST, self.limit * 0.9)
            elif self._peak >= self.limit - 1:
                self.limit = min(MOST, self.limit + 1)
            self._took.clear()
            self._peak = self.in_flight
            MAX_IN_FLIGHT.set(self.limit)

    async def _watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_SECONDS)
            late = time.perf_counter() - before - LAG_SECONDS
            self._lag = max(0.0, late, 0.8 * self._lag)
