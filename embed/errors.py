"""The errors that this package raises.

EmbedError
├── BadInput       the caller's input is invalid
├── Missing        a file, a package or a model is missing
├── Damaged        a file is not what was written
└── Unavailable    a server does not respond as it should

Any other exception that leaves the package is a defect of the package.
"""


class EmbedError(Exception):
    """Base class of the errors; `field` names the argument, column or file at fault."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class BadInput(EmbedError):
    """Invalid input; the message names the field, the value and what to do."""


class Missing(EmbedError):
    """Something required is missing; the message says how to get it."""


class Damaged(EmbedError):
    """A file is truncated, altered or of another version; the message names the file."""


class Unavailable(EmbedError):
    """A server does not respond, or not as it should: later it may; the message says which server and what to do."""
