"""What a file of records gives: a record as read, or a reject."""

from dataclasses import dataclass
from typing import Any

# A CSV record or a JSON line beyond this many characters is rejected: memory stays bounded whatever the feed holds.
MAX_RECORD = 1 << 20


@dataclass(slots=True)
class Record:
    """One record under the feed's own column names. `line` is the line, row or element it starts on, from 1."""

    line: int
    values: dict[str, Any]


@dataclass(slots=True)
class Reject:
    """A record that was not taken, and why; `code` is for counting, `reason` is for people."""

    line: int
    code: str
    reason: str
    item_id: str = ""
    field: str = ""
