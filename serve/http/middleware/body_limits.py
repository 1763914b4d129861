"""Limits on the size of request bodies and on the time in which they arrive."""

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

WITHOUT_BODY = {"GET", "HEAD", "OPTIONS"}


class BodyLimits:
    """Stops reading a body at its limits, whether or not the request states its length.

    Args:
        app: the next layer.
        max_bytes: size of a body as sent.
        max_seconds: time from the start of a request to the end of its body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float) -> None:
        self._app, self._max_bytes, self._max_seconds = app, max_bytes, max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in WITHOUT_BODY:
            receive = self._limit(receive)
        await self._app(scope, receive, send)

    def _limit(self, receive: Receive) -> Receive:
        size, deadline, complete = 0, time.monotonic() + self._max_seconds, False

        async def receive_within_limits() -> Message:
            nonlocal size, complete
            if complete:  # the next message tells that the client disconnected, at any later time
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                # An HTTPException, because FastAPI wraps any other that is raised while it reads.
                seconds = f"{self._max_seconds:g} s"
                raise HTTPException(408, f"the body did not arrive within {seconds}: send it faster") from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self._max_bytes:
                raise body_too_large(self._max_bytes)
            return message

        return receive_within_limits


def body_too_large(max_bytes: int) -> HTTPException:
    """The error of a body beyond its limit."""
    return HTTPException(413, f"the body is larger than {max_bytes} bytes: send fewer items in a request")
