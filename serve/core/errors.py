"""The error tree of `serve`, and how the errors of all packages look to a caller.

ServeError
├── BadRequest            the request or a setting is invalid (422): the message names the field, the value and the fix
├── NotFound              a requested item or release does not exist (404)
└── StoreUnavailable      a release, store or database cannot be used (503): the message names the file and the fix
    └── WrongDatabase     the database belongs to another store

Any other exception that reaches the service is an internal error (500).
"""

from dataclasses import dataclass

from embed.errors import BadInput, EmbedError, Missing, Unavailable
from index import errors as index_errors


class ServeError(Exception):
    """Root of the error tree; `field` names the invalid argument or file, `code` identifies the error to programs."""

    status = 500

    def __init__(self, message: str, field: str = "", code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.code = code or _snake_case(type(self).__name__)


class BadRequest(ServeError):
    """The request or a setting is invalid; the message names the field, the value and the fix."""

    status = 422


class NotFound(ServeError):
    """A requested item, user or release does not exist."""

    status = 404


class StoreUnavailable(ServeError):
    """A release, store or database cannot be used; the message names the file and the fix."""

    status = 503


class WrongDatabase(StoreUnavailable):
    """The database belongs to another store; the message names both and the fix."""


@dataclass(frozen=True)
class ErrorResponse:
    """An error as a caller sees it: HTTP status, code, message, and the invalid field."""

    status: int
    code: str
    message: str
    field: str


EXPECTED = (ServeError, EmbedError, index_errors.VectorIndexError)


def error_response(error: Exception) -> ErrorResponse:
    """Convert one of the `EXPECTED` errors, of any package, to what a caller sees."""
    if isinstance(error, ServeError):
        return ErrorResponse(error.status, error.code, error.message, error.field)
    if isinstance(error, BadInput | index_errors.InvalidQuery):
        return ErrorResponse(422, getattr(error, "code", "bad_request"), error.message, error.field)
    if isinstance(error, EmbedError | index_errors.VectorIndexError):
        codes = {Missing: "missing", index_errors.IndexMissing: "missing", Unavailable: "unavailable"}
        return ErrorResponse(503, codes.get(type(error), "damaged"), error.message, error.field)
    raise TypeError(f"{type(error).__name__} is not an expected error") from error


def escape_surrogates(text: str) -> str:
    """Escape half surrogate pairs, which JSON can contain but UTF-8 cannot, so that the text can be sent."""
    return text.encode("utf-8", "backslashreplace").decode()


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
