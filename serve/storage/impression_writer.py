"""Logs answers without slowing them: a bounded queue, and one thread that writes what is in it together."""

import logging
import queue
import threading

from serve.core.errors import ServeError
from serve.core.metrics import DROPPED
from serve.storage.impression_log import ImpressionLog, ImpressionRecord

MAX_WAITING = 10_000
MAX_TOGETHER = 500
FLUSH_SECONDS = 0.02  # that the first of a lot waits for others
PATIENCE_SECONDS = 5.0
_log = logging.getLogger("vetrina")


class ImpressionWriter:
    """Of answers that find the queue full, or that cannot be written, `dropped` counts how many."""

    def __init__(self, store: ImpressionLog) -> None:
        self._store = store
        self._waiting: queue.Queue[ImpressionRecord | None] = queue.Queue(MAX_WAITING)
        self._pending: dict[str, threading.Event] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="answer-log", daemon=True)
        self._thread.start()
        self.dropped = 0

    def put(self, answer: ImpressionRecord) -> None:
        """Have an answer written soon; never waits."""
        with self._lock:
            self._pending[answer.request_id] = threading.Event()
        try:
            self._waiting.put_nowait(answer)
        except queue.Full:
            self._done([answer])
            self._drop(1)

    def settle(self, request_id: str) -> None:
        """Wait until the answer to a request is on disk, if it is still on its way: what came of it may then count."""
        with self._lock:
            written = self._pending.get(request_id)
        if written is not None:
            written.wait(PATIENCE_SECONDS)

    def settle_all(self) -> None:
        """Wait for all answers that are on their way."""
        with self._lock:
            waiting = list(self._pending.values())
        for written in waiting:
            written.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        """Write what waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (first := self._waiting.get()) is not None:
            lot, ended = [first], False
            while len(lot) < MAX_TOGETHER and not ended:
                try:
                    following = self._waiting.get(timeout=FLUSH_SECONDS if len(lot) == 1 else 0)
                except queue.Empty:
                    break
                ended = following is None
                if following is not None:
                    lot.append(following)
            try:
                self._store.add(lot)
            except ServeError as error:
                self._drop(len(lot))
                _log.error("%d answers could not be logged: %s", len(lot), error.message)
            except Exception:  # a bug must end neither the log nor the service
                self._drop(len(lot))
                _log.exception("%d answers could not be logged", len(lot))
            self._done(lot)
            if ended:
                return

    def _drop(self, answers: int) -> None:
        self.dropped += answers
        DROPPED.inc(answers)

    def _done(self, answers: list[ImpressionRecord]) -> None:
        with self._lock:
            for answer in answers:
                self._pending.pop(answer.request_id).set()
