"""The recall probe: now and then a live query is searched exactly too, so that what an index misses is measured on what
shoppers ask for, not only on what it was tuned with.

It costs one exact search every so many seconds, in a thread of its own, and nothing of the query is kept.
"""

import logging
import queue
import threading
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.exact import top
from index.protocol import VectorIndex
from index.selection import Selection
from serve.core.metrics import PROBE_FOUND, PROBED

K = 10
_log = logging.getLogger("vetrina")


class _SampledQuery(NamedTuple):
    space: str
    vectors: VectorIndex
    query: NDArray[np.float32]
    found: NDArray[np.int64]
    allowed: Selection | None


class RecallMonitor:
    """Compares at most one search in `seconds` with the truth; Prometheus hears of it."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._next = seconds, 0.0
        self._asked: queue.Queue[_SampledQuery | None] = queue.Queue(maxsize=4)
        self._thread = threading.Thread(target=self._run, name="recall-probe", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End once what was offered is done."""
        self._asked.put(None)
        self._thread.join()

    def offer(
        self,
        space: str,
        index: VectorIndex,
        query: NDArray[np.float32],
        found: NDArray[np.int64],
        allowed: Selection | None,
    ) -> None:
        """A search for `query` [dim] `found` items, best first; never waits."""
        now = time.monotonic()
        if now < self._next or len(found) < K:
            return
        self._next = now + self._seconds
        try:
            self._asked.put_nowait(_SampledQuery(space, index, query, found[:K], allowed))
        except queue.Full:
            self._next = now  # the next one, then

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None:
            try:
                found = recalled(*asked[1:])
                PROBED.labels(asked.space).inc(K)
                PROBE_FOUND.labels(asked.space).inc(found)
            except Exception:  # a probe must not end probing
                _log.exception("the recall of space %s could not be probed", asked.space)


def recalled(
    index: VectorIndex, query: NDArray[np.float32], found: NDArray[np.int64], allowed: Selection | None
) -> int:
    """How many of `found` [k] are among the k nearest, those as near as the k-th included."""
    scores = index.scores_of_all(query)
    if allowed is not None:
        scores = np.where(allowed.mask, scores, -np.inf)
    best = top(scores, np.arange(len(scores)), len(found))
    return int((scores[found] >= scores[best[-1]] - 1e-6).sum())
