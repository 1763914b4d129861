"""Records of a file, and rejects."""

from dataclasses import dataclass
from typing import Any

# Characters of a CSV record or JSON line; longer ones are rejected, so that memory stays bounded.
MAX_RECORD = 1 << 20


@dataclass(slots=True)
class Record:
    """A record under the file's own column names. `line` is the line, row or element where it starts, from 1."""

    line: int
    values: dict[str, Any]


@dataclass(slots=True)
class Reject:
    """A rejected record; `code` is for programs, `reason` for people."""

    line: int
    code: str
    reason: str
    item_id: str = ""
    field: str = ""
