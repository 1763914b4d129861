"""Validates and stores incoming events."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embed.behaviour import Event, clean_event
from embed.records import Reject
from serve.core.errors import escape_surrogates
from serve.storage.event_log import EventLog


@dataclass(frozen=True)
class EventResult:
    """The result of one event: stored, pending (stored, counts once its item is known), duplicate or rejected."""

    event_id: str
    status: str
    code: str = ""
    message: str = ""
    field: str = ""


def store_events(
    log: EventLog, rows: Sequence[Mapping[str, Any]], is_known_item: Callable[[str], bool]
) -> list[EventResult]:
    """Validate and store events, on disk on return; `is_known_item` says whether the catalogue has an item id."""
    now = time.time()
    cleaned = [clean_event(_with_time(values, now), row) for row, values in enumerate(rows)]
    is_new = iter(log.add([event for event in cleaned if isinstance(event, Event)]))
    results = []
    for event in cleaned:
        if isinstance(event, Reject):
            results.append(EventResult("", "rejected", event.code, escape_surrogates(event.reason), event.field))
        elif not next(is_new):
            results.append(EventResult(event.event_id, "duplicate"))
        else:
            results.append(EventResult(event.event_id, "stored" if is_known_item(event.item_id) else "pending"))
    return results


def _with_time(values: Mapping[str, Any], now: float) -> Mapping[str, Any]:
    """Set `timestamp` to `now` if the event has none; null counts as none."""
    return {**values, "timestamp": now} if values.get("timestamp") is None else values
