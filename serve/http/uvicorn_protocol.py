"""Uvicorn's HTTP protocol with a time limit for request heads.

Without the limit, a connection that sends a byte a minute stays open indefinitely, and a few thousand of them use up
all connections of a process.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0


class HeadTimeoutProtocol(HttpToolsProtocol):
    """Closes a connection if a request head is incomplete HEAD_SECONDS after it began or the connection was opened."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._timer is None:
            self._start_timer()

    def on_headers_complete(self) -> Any:
        self._stop_timer()
        return super().on_headers_complete()

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
