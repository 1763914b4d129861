"""Measures the recall of approximate indexes on live queries: now and then one of them is searched exactly too.

So recall is known for the queries that users send, and not only for those that the index was tuned with. It costs one
exact search in each interval, in a thread of its own. Nothing of the query is stored.
"""

import logging
import queue
import threading
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.item_mask import ItemMask
from index.protocol import VectorIndex
from index.top_k import TIE, top_k
from serve.core.metrics import PROBE_FOUND, PROBED

K = 10
_log = logging.getLogger("vetrina")


class _SampledQuery(NamedTuple):
    space: str
    space_index: VectorIndex
    query: NDArray[np.float32]
    hits: NDArray[np.int64]
    allowed: ItemMask | None


class RecallMonitor:
    """Compares at most one search in `seconds` with exact search, and publishes the counts to Prometheus."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._next = seconds, 0.0
        self._queue: queue.Queue[_SampledQuery | None] = queue.Queue(maxsize=4)
        self._thread = threading.Thread(target=self._run, name="recall-monitor", daemon=True)

    def start(self) -> None:
        """Start the thread that searches exactly."""
        self._thread.start()

    def stop(self) -> None:
        """Stop once the queued searches are compared."""
        self._queue.put(None)
        self._thread.join()

    def offer(
        self,
        space: str,
        index: VectorIndex,
        query: NDArray[np.float32],
        hits: NDArray[np.int64],
        allowed: ItemMask | None,
    ) -> None:
        """Offer a search for comparison; never waits.

        Args:
            space: the name of the space.
            index: the index that was searched.
            query: the query's vector, [dim].
            hits: the items found, best first.
            allowed: the items that the search was limited to; None for all.
        """
        now = time.monotonic()
        if now < self._next or len(hits) < K:
            return
        self._next = now + self._seconds
        try:
            self._queue.put_nowait(_SampledQuery(space, index, query, hits[:K], allowed))
        except queue.Full:
            self._next = now  # take the next search instead

    def _run(self) -> None:
        while (sampled := self._queue.get()) is not None:
            try:
                correct = count_correct(*sampled[1:])
                PROBED.labels(sampled.space).inc(K)
                PROBE_FOUND.labels(sampled.space).inc(correct)
            except Exception:  # one failed comparison must not end the thread
                _log.exception("the recall of space %s could not be measured", sampled.space)


def count_correct(
    index: VectorIndex, query: NDArray[np.float32], hits: NDArray[np.int64], allowed: ItemMask | None
) -> int:
    """Count the hits that are among the k nearest items, ties with the k-th included.

    Args:
        index: the index that was searched.
        query: the query's vector, [dim].
        hits: the items found, [k].
        allowed: the items that the search was limited to; None for all.
    """
    scores = index.score_all_items(query)
    if allowed is not None:
        scores = np.where(allowed.mask, scores, -np.inf)
    best = top_k(scores, np.arange(len(scores)), len(hits))
    return int((scores[hits] >= scores[best[-1]] - TIE).sum())
