"""Writes the impression log in the background: a bounded queue, and one thread that writes its content in batches."""

import logging
import queue
import threading

from serve.core.errors import ServeError
from serve.core.metrics import IMPRESSIONS_DROPPED
from serve.storage.impression_log import ImpressionLog, ImpressionRecord

MAX_QUEUED = 10_000
MAX_BATCH = 500
FLUSH_SECONDS = 0.02  # for which the first record of a batch waits for others
WAIT_SECONDS = 5.0
_log = logging.getLogger("vetrina")


class ImpressionWriter:
    """Writes responses in the background; `dropped` counts those that found the queue full or could not be written."""

    def __init__(self, log: ImpressionLog) -> None:
        self._impressions = log
        self._queue: queue.Queue[ImpressionRecord | None] = queue.Queue(MAX_QUEUED)
        self._pending: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="impression-writer", daemon=True)
        self._thread.start()
        self.dropped = 0

    def put(self, record: ImpressionRecord) -> None:
        """Queue a response; never waits."""
        with self._lock:
            self._pending[record.request_id] = threading.Event()
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._finish([record])
            self._drop(1)

    def wait_for(self, request_id: str) -> None:
        """Wait until the response to a request is on disk, so that events can be attributed to it."""
        with self._lock:
            written = self._pending.get(request_id)
        if written is not None:
            written.wait(WAIT_SECONDS)

    def wait_for_all(self) -> None:
        """Wait until all queued responses are on disk."""
        with self._lock:
            pending = list(self._pending.values())
        for written in pending:
            written.wait(WAIT_SECONDS)

    def close(self) -> None:
        """Write what is queued, and stop."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, closed = [first], False
            while len(batch) < MAX_BATCH and not closed:
                try:
                    record = self._queue.get(timeout=FLUSH_SECONDS if len(batch) == 1 else 0)
                except queue.Empty:
                    break
                closed = record is None
                if record is not None:
                    batch.append(record)
            try:
                self._impressions.add(batch)
            except ServeError as error:
                self._drop(len(batch))
                _log.error("%d responses could not be logged: %s", len(batch), error.message)
            except Exception:  # an unexpected error must stop neither the writer nor the service
                self._drop(len(batch))
                _log.exception("%d responses could not be logged", len(batch))
            self._finish(batch)
            if closed:
                return

    def _drop(self, count: int) -> None:
        self.dropped += count
        IMPRESSIONS_DROPPED.inc(count)

    def _finish(self, records: list[ImpressionRecord]) -> None:
        with self._lock:
            for record in records:
                self._pending.pop(record.request_id).set()
