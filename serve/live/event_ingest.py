"""Cleans and stores incoming events."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embed.behaviour import Event, clean_event
from embed.records import Reject
from serve.core.errors import writable
from serve.storage.event_log import EventLog


@dataclass(frozen=True)
class EventResult:
    """What became of one event: stored, parked (stored for when its item is known), duplicate or rejected."""

    event_id: str
    status: str
    code: str = ""
    message: str = ""
    field: str = ""


def take_events(store: EventLog, rows: Sequence[Mapping[str, Any]], knows: Callable[[str], bool]) -> list[EventResult]:
    """Clean and keep events, on disk when this returns; `knows` tells whether there is an item of an id."""
    now = time.time()
    cleaned = [clean_event({"timestamp": now, **values}, place) for place, values in enumerate(rows)]
    new = iter(store.add([event for event in cleaned if isinstance(event, Event)]))
    taken = []
    for event in cleaned:
        if isinstance(event, Reject):
            taken.append(EventResult("", "rejected", event.code, writable(event.reason), event.field))
        elif not next(new):
            taken.append(EventResult(event.event_id, "duplicate"))
        else:
            taken.append(EventResult(event.event_id, "stored" if knows(event.item_id) else "parked"))
    return taken
