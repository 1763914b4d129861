"""Errors of the client, and how they are built from responses."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from pydantic import ValidationError

from serve.schemas.common import ErrorBody, ErrorEnvelope


class ClientError(Exception):
    """Base class of the client's errors.

    Args:
        message: what is wrong.
        status: HTTP status; 0 without a response.
        code: the service's error code, for programs.
        field: the invalid field of the request.
        retry_after: seconds after which to retry, if the service states them.
    """

    def __init__(
        self, message: str, status: int = 0, code: str = "", field: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message, status, code, field, retry_after)
        self.message, self.status, self.code, self.field, self.retry_after = message, status, code, field, retry_after

    def __str__(self) -> str:
        return self.message


class Refused(ClientError):
    """The service rejects the request; it must be changed."""


class NotAllowed(Refused):
    """The key is missing, unknown, or lacks the scope."""


class NotFound(Refused):
    """An item, a release or an operation does not exist."""


class TooMany(Refused):
    """The rate limit of the key is exceeded."""


class Unavailable(ClientError):
    """The service is overloaded, has no active release, or failed."""


class Unreachable(ClientError):
    """No connection, a broken connection, or no response in time. A change may have been made nevertheless."""


class Unreadable(ClientError):
    """The response is not one of this API, but of another service or version."""


ERROR_CLASSES: Mapping[int, type[ClientError]] = {401: NotAllowed, 403: NotAllowed, 404: NotFound, 429: TooMany}


def error_from_response(response: httpx.Response) -> ClientError:
    """Return the error of an error response."""
    status = response.status_code
    try:
        error = ErrorEnvelope.model_validate_json(response.content).error
    except ValidationError:  # from a proxy, for example
        error = ErrorBody(code="", message=f"response with status {status} {response.reason_phrase}", field="")
    kind = Unavailable if status >= 500 else ERROR_CLASSES.get(status, Refused)
    return kind(error.message, status, error.code, error.field, retry_after(response))


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of `Retry-After`, which are a number or a date; None without a valid value."""
    value = response.headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    with suppress(ValueError):
        date = parsedate_to_datetime(value)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None
