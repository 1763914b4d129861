"""The error tree of the room, and how errors of all rooms look to a caller.

ServeError
├── BadRequest   the caller's mistake (422): names the field, the value and the fix
├── NotFound     a thing that is not there (404): an item, a release
└── Broken       a release or store that cannot be used (503): names the file

Anything else that escapes the room is a bug of ours (500).
"""

from dataclasses import dataclass

from embed.errors import BadInput, EmbedError, Missing
from index import errors as index_errors


class ServeError(Exception):
    """Root of the room's errors; `field` names the argument or file at fault, `code` is for programs."""

    status = 500

    def __init__(self, message: str, field: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.code = code or _snake(type(self).__name__)


class BadRequest(ServeError):
    """The caller's mistake; the message names the field, the value and the fix."""

    status = 422


class NotFound(ServeError):
    """Something that was asked for is not there."""

    status = 404


class StoreUnavailable(ServeError):
    """A release or store that cannot be used; the message names the file and the way out."""

    status = 503


@dataclass(frozen=True)
class ErrorResponse:
    """An error as a caller sees it."""

    status: int
    code: str
    message: str
    field: str


EXPECTED = (ServeError, EmbedError, index_errors.IndexFault)


def error_response(error: Exception) -> ErrorResponse:
    """What to tell the caller of one of the `EXPECTED` errors, whichever room it comes from."""
    if isinstance(error, ServeError):
        return ErrorResponse(error.status, error.code, error.message, error.field)
    if isinstance(error, BadInput | index_errors.BadQuery):
        return ErrorResponse(422, getattr(error, "code", "bad_request"), error.message, error.field)
    if isinstance(error, EmbedError | index_errors.IndexFault):
        kind = "missing" if isinstance(error, Missing | index_errors.Missing) else "damaged"
        return ErrorResponse(503, kind, error.message, error.field)
    raise TypeError(f"{type(error).__name__} is not an expected error") from error


def writable(text: str) -> str:
    """The text as it can be sent: half a surrogate pair, which a caller's JSON may hold, cannot be written as UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
