"""The error tree of the room: what can go wrong here, by whose doing.

EmbedError
├── BadInput    the caller's mistake: names the field, the value and the fix
├── Missing     a thing that is not there: a file, a package, a model
└── Damaged     a thing that is there but is not what was written

Anything else that escapes the room is a bug of ours.
"""


class EmbedError(Exception):
    """Root of the room's errors; `field` names the argument, column or file at fault."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class BadInput(EmbedError):
    """The caller's mistake; the message names the field, the value and the fix."""


class Missing(EmbedError):
    """Something that is needed is not there; the message says how to get it."""


class Damaged(EmbedError):
    """A file is cut, altered or of another build; the message names the file."""
