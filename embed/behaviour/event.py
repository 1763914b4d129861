"""The event: a user interacted with an item at a time. Defines the event types and how strong a signal each is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import pyarrow as pa

DAY = 86_400.0  # seconds
EVENT_TYPES = ("impression", "view", "click", "cart", "purchase", "rating", "dislike")


@dataclass(slots=True)
class Event:
    """One event after cleaning. `timestamp` is in epoch seconds, UTC.

    `value` is the value of a rating, an amount, or, for an impression, the probability (0 to 1) that this item was
    shown at this position. `event_id` identifies the event however often it is sent; without one in the file, it is a
    hash of the event's content. `request_id` and `position` are the response, and the position in it, that the event
    followed. `query` is the user's search query, in lower case.
    """

    event_id: str
    user_id: str
    item_id: str
    type: str
    timestamp: float
    value: float | None = None
    request_id: str | None = None
    position: int | None = None
    session_id: str | None = None
    domain: str | None = None
    query: str | None = None


EVENT_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("timestamp", pa.float64(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("request_id", pa.string()),
        pa.field("position", pa.int64()),
        pa.field("session_id", pa.string()),
        pa.field("domain", pa.string()),
        pa.field("query", pa.string()),
    ]
)

_ROW = attrgetter(*EVENT_SCHEMA.names)


def as_batch(events: Iterable[Event]) -> Any:
    """Convert events to a pyarrow.RecordBatch with the columns of EVENT_SCHEMA."""
    rows = list(map(_ROW, events))
    columns = zip(*rows, strict=True) if rows else [[] for _ in EVENT_SCHEMA]
    arrays = [pa.array(list(values), part.type) for values, part in zip(columns, EVENT_SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=EVENT_SCHEMA)


@dataclass(frozen=True)
class Signal:
    """How strong a positive signal an event is. Impressions, dislikes and ratings below `liked_from` are none.

    `weights` are by event type. Every rating from `liked_from` up counts as `weights["rating"]`, whatever its value.
    """

    weights: Mapping[str, float] = field(
        default_factory=lambda: {"view": 0.5, "click": 1.0, "cart": 2.0, "purchase": 3.0, "rating": 1.0}
    )
    liked_from: float = 4.0

    def weight(self, type_: str, value: float | None) -> float:
        """Return the weight of an event as a positive signal, 0 for an event that is not one."""
        if type_ == "rating" and (value is None or value < self.liked_from):
            return 0.0
        return self.weights.get(type_, 0.0)
