"""Request ids, request metrics and the access log.

The log contains no data of users: it has the route instead of the path, which may contain ids, and the name of the key
instead of the key.
"""

import logging
import time
from functools import lru_cache

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.core.metrics import REQUESTS
from serve.core.request_context import RequestContext, begin_request

log = logging.getLogger("vetrina.access")


class AccessLog:
    """Gives each request an id, measures its duration, counts it, and logs it.

    Logged are requests that are slow or fail; with `log_all`, all of them.

    Args:
        app: the next layer.
        slow_seconds: duration from which a request is slow, and its response goes out without further refinement.
        log_all: whether to log every request.
    """

    def __init__(self, app: ASGIApp, slow_seconds: float, log_all: bool) -> None:
        self._app, self._slow_seconds, self._log_all = app, slow_seconds, log_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        context = RequestContext(late_from=time.monotonic() + self._slow_seconds)
        begin_request(context)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", context.id.encode()))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - started, context)

    def _record(self, scope: Scope, status: int, seconds: float, context: RequestContext) -> None:
        route = getattr(scope.get("route"), "path", "other")
        _timer(scope["method"], route, status).observe(seconds)
        slow = seconds > self._slow_seconds
        state = scope.get("state", {})
        if self._log_all or slow or (status >= 500 and "shed" not in state):
            caller = state.get("caller")
            fields = {
                "request_id": context.id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "took_ms": round(seconds * 1000, 3),
                "key": caller.key.name if caller is not None and caller.key is not None else "",
                **({"partial": context.partial} if context.partial else {}),
            }
            level = logging.WARNING if status >= 500 or slow else logging.INFO
            log.log(level, "request", extra={"fields": fields})


@lru_cache(maxsize=4096)
def _timer(method: str, route: str, status: int) -> Histogram:
    return REQUESTS.labels(route if route == "other" else f"{method} {route}", status)
