"""Error responses of the middleware, in the form of all error responses."""

import orjson
from starlette.types import Send

from serve.core.errors import ErrorResponse, escape_surrogates
from serve.core.metrics import REFUSED

Header = tuple[bytes, bytes]


async def refuse(send: Send, error: ErrorResponse, *headers: Header) -> None:
    """Count a refused request, and send its error response."""
    REFUSED.labels(error.status).inc()
    await send_error(send, error, *headers)


async def send_error(send: Send, error: ErrorResponse, *headers: Header) -> None:
    """Send an error response with additional headers."""
    message = escape_surrogates(error.message)
    body = orjson.dumps({"error": {"code": error.code, "message": message, "field": error.field}})
    content = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": [*content, *headers]})
    await send({"type": "http.response.body", "body": body})
