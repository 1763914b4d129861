"""What passes between reading, mapping and cleaning: a record as read, a raw product, and a reject."""

from dataclasses import dataclass, field
from typing import Any

# A CSV record or a JSON line beyond this many characters is rejected: memory stays bounded whatever the feed holds.
MAX_RECORD = 1 << 20


@dataclass(slots=True)
class Record:
    """One record under the feed's own column names. `line` is the line, row or element it starts on, from 1."""

    line: int
    values: dict[str, Any]


@dataclass(slots=True)
class Raw:
    """One product under the contract's names, its values still as the feed gave them."""

    line: int
    item_id: object = None
    title: object = None
    description: object = None
    category: object = None
    brand: object = None
    price: object = None
    currency: object = None
    images: list[object] = field(default_factory=list)
    attributes: dict[str, list[object]] = field(default_factory=dict)
    available: object = None
    domain: object = None
    updated_at: object = None
    fallback_currency: str | None = None


@dataclass(slots=True)
class Reject:
    """A record that was not taken, and why; `code` is for counting, `reason` is for people."""

    line: int
    code: str
    reason: str
    item_id: str = ""
    field: str = ""
