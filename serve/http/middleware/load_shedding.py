"""Load shedding: refuses requests that cannot be handled in time."""

import logging
import time

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.core.errors import ErrorResponse
from serve.core.metrics import SHED
from serve.http.middleware.concurrency_limiter import ConcurrencyLimiter
from serve.http.middleware.refusals import refuse
from serve.http.permissions import request_path

log = logging.getLogger("vetrina.access")
ALWAYS_ADMITTED = {"/", "/healthz", "/readyz", "/metrics", "/v1/me", "/openapi.json", "/docs"}
RETRY_SECONDS = 1
LOG_SECONDS = 10.0
BUSY = ErrorResponse(503, "busy", f"server overloaded, retry after {RETRY_SECONDS} s", "")
RETRY_AFTER = (b"retry-after", str(RETRY_SECONDS).encode())


class LoadShedding:
    """Refuses requests beyond the limit; health checks, metrics and the console's files always pass."""

    def __init__(self, app: ASGIApp, limiter: ConcurrencyLimiter) -> None:
        self._app, self._limiter = app, limiter
        self._next_log = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (path := request_path(scope)) in ALWAYS_ADMITTED or path.startswith("/console/"):
            await self._app(scope, receive, send)
            return
        if not self._limiter.admit():
            self._log_overload()
            scope["state"]["shed"] = True
            await refuse(send, BUSY, RETRY_AFTER)
            return
        started = time.perf_counter()
        try:
            await self._app(scope, receive, send)
        finally:
            self._limiter.finish(time.perf_counter() - started)

    def _log_overload(self) -> None:
        """Count a shed request; log at intervals only, because a line for each would cost as much as a response."""
        SHED.inc()
        now = time.monotonic()
        if now >= self._next_log:
            self._next_log = now + LOG_SECONDS
            log.warning("server overloaded: requests are refused, see the metric vetrina_shed_total")
