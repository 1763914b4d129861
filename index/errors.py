"""The error tree of the room: what can go wrong here, by whose doing.

IndexFault
├── BadQuery    the caller's mistake: names the argument, the value and the fix
├── Missing     a file of an index that is not there
└── Damaged     a file that is there but is not what was written, or belongs to another index

Anything else that escapes the room is a bug of ours.
"""


class IndexFault(Exception):
    """Root of the room's errors; `field` names the argument or file at fault."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class BadQuery(IndexFault):
    """The caller's mistake; the message names the argument, the value and the fix."""


class Missing(IndexFault):
    """A file that an index needs is not there."""


class Damaged(IndexFault):
    """A file is cut, altered or of another index; the message names it."""
