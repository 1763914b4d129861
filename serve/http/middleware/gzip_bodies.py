"""Request bodies with `content-encoding: gzip`."""

import asyncio
import zlib

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.core.errors import ErrorResponse
from serve.http.middleware.body_limits import body_too_large
from serve.http.middleware.refusals import send_error

CHUNK_BYTES = 1 << 20
REPLACED_HEADERS = (b"content-encoding", b"content-length")
MAX_MEMBERS = 100  # of a gzip body: each one costs time, even if it is empty
GZIP_WINDOW = 31  # zlib's largest window, with a gzip header


class GzipBodies:
    """Decompresses gzip bodies as they arrive, and refuses other encodings.

    `max_bytes` limits the decompressed body. At most CHUNK_BYTES are decompressed at a time, so that a small body that
    expands to a large one blocks neither memory nor the event loop.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoding = _content_encoding(scope) if scope["type"] == "http" else ""
        if encoding in ("", "identity"):
            await self._app(scope, receive, send)
        elif encoding in ("gzip", "x-gzip"):
            # In place, because outer layers read the route from the same scope.
            scope["headers"] = [header for header in scope["headers"] if header[0] not in REPLACED_HEADERS]
            await self._app(scope, _GzipReader(receive, self._max_bytes).receive, send)
        else:
            message = f"unsupported content-encoding {encoding!r}: send gzip, or no encoding"
            error = ErrorResponse(415, "unsupported_media_type", message, "content-encoding")
            await send_error(send, error, (b"accept-encoding", b"gzip"))


class _GzipReader:
    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive, self._max_bytes = receive, max_bytes
        self._stream = zlib.decompressobj(GZIP_WINDOW)
        self._compressed = b""
        self._size = 0
        self._members = 1
        self._may_continue = False  # whether the stream may yield more without more input
        self._more_body = True
        self._complete = False

    async def receive(self) -> Message:
        """Return the next decompressed chunk as a message."""
        if self._complete:
            return await self._receive()
        if self._may_continue:
            await asyncio.sleep(0)  # other requests get a turn between chunks
        else:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            self._compressed = message.get("body", b"")
            self._more_body = message.get("more_body", False)
        body = self._decompress()
        self._size += len(body)
        if self._size > self._max_bytes:
            raise body_too_large(self._max_bytes)
        self._complete = not (self._may_continue or self._more_body)
        if self._complete and not self._stream.eof:
            raise HTTPException(400, "the body is not valid gzip: it is incomplete")
        return {"type": "http.request", "body": body, "more_body": not self._complete}

    def _decompress(self) -> bytes:
        if self._stream.eof and self._compressed:  # a gzip body may have several members
            self._members += 1
            if self._members > MAX_MEMBERS:
                message = f"the gzip body has more than {MAX_MEMBERS} members: compress it as one"
                raise HTTPException(400, message)
            self._stream = zlib.decompressobj(GZIP_WINDOW)
        try:
            body = self._stream.decompress(self._compressed, CHUNK_BYTES)
        except zlib.error as error:
            raise HTTPException(400, f"the body is not valid gzip: {error}") from error
        self._compressed = self._stream.unconsumed_tail or self._stream.unused_data
        self._may_continue = bool(self._compressed) or (len(body) == CHUNK_BYTES and not self._stream.eof)
        return body


def _content_encoding(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"content-encoding":
            encoding: str = value.decode("latin-1").strip().lower()
            return encoding
    return ""
