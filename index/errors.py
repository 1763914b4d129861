"""Errors of the index package.

VectorIndexError
├── InvalidQuery    the caller passed an invalid argument; names the argument, the value and the fix
├── IndexMissing    a file, collection or engine that an index needs is not there
└── IndexDamaged    a file or collection has unexpected content, or belongs to another index

Any other exception that leaves the package is a defect of the package.
"""


class VectorIndexError(Exception):
    """Base class of the package's errors; `field` names the invalid argument or file."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidQuery(VectorIndexError):
    """The caller passed an invalid argument; the message names the argument, the value and the fix."""


class IndexMissing(VectorIndexError):
    """A file, collection or engine that an index needs is not there."""


class IndexDamaged(VectorIndexError):
    """A file or collection is truncated, altered or belongs to another index; the message names it."""
