"""How many requests a process handles at once, so that the accepted ones stay fast.

A process that accepts more requests than it can handle delays all of them. The limiter adapts the number of requests in
flight so that 19 of 20 responses are within the target, by additive increase and multiplicative decrease (Chiu & Jain
1989): one more when the limit was reached and responses were in time, 10% fewer when they were late.
"""

import asyncio
import time

from serve.core.metrics import IN_FLIGHT, MAX_IN_FLIGHT

WINDOW = 40  # responses after which the limit is adapted
MIN_LIMIT, MAX_LIMIT, INITIAL_LIMIT = 4, 256, 16  # the minimum suits a slow encoder on a few cores
LAG_SECONDS = 0.01


class ConcurrencyLimiter:
    """Admits requests up to a limit that follows the response times; `target` is in seconds. For one event loop."""

    def __init__(self, target: float) -> None:
        self._target = target
        self.limit = float(INITIAL_LIMIT)
        self.in_flight = 0
        self._peak = 0
        self._durations: list[float] = []
        self._lag = 0.0
        self._task: asyncio.Task[None] | None = None
        MAX_IN_FLIGHT.set(self.limit)

    def start(self) -> None:
        """Start measuring the delay of the event loop, which a request suffers before it can be timed here."""
        self._task = asyncio.create_task(self._measure_lag())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def admit(self) -> bool:
        """Return whether a request may be handled; if so, the caller must call `finish` at its end."""
        if self.in_flight >= self.limit or (self._lag > self._target and self.in_flight >= MIN_LIMIT):
            return False
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)
        IN_FLIGHT.set(self.in_flight)
        return True

    def finish(self, seconds: float) -> None:
        """Record the end of an admitted request and its duration."""
        self.in_flight -= 1
        IN_FLIGHT.set(self.in_flight)
        self._durations.append(seconds + self._lag)
        if len(self._durations) == WINDOW:
            late = sorted(self._durations)[WINDOW * 19 // 20] > self._target
            if late:
                self.limit = max(MIN_LIMIT, self.limit * 0.9)
            elif self._peak >= self.limit - 1:
                self.limit = min(MAX_LIMIT, self.limit + 1)
            self._durations.clear()
            self._peak = self.in_flight
            MAX_IN_FLIGHT.set(self.limit)

    async def _measure_lag(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LAG_SECONDS)
            late = time.perf_counter() - before - LAG_SECONDS
            self._lag = max(0.0, late, 0.8 * self._lag)
