"""Cleaning of events: a record under the contract's names becomes an Event or a Reject.

- **Ids** of users and items are read as those of products are: text as given, trimmed; whole numbers become digits.
- **Times** are epoch seconds, or milliseconds, microseconds or nanoseconds (which are told by their size and believed
  from 2005 on, as no shop wrote such before), or ISO 8601 with an offset; without one they are in the mapping's time
  zone, else UTC. A time before 1995, or more than a day ahead, or in any other spelling is none: `01/02/2026` may be
  two days.
- **Values** are numbers; NaN and infinities are none. A rating needs one.
- **Queries** are put in lower case, and each run of blanks becomes one.
- **Event ids** are kept; an event without one gets the hash of what it says, so that a file may be read twice.
"""

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo

import orjson

from embed.behaviour.event import EVENT_TYPES, Event
from embed.catalogue.cleaning import finite, identifier
from embed.records import Reject

MAX_TEXT = 512
EARLIEST = datetime(1995, 1, 1, tzinfo=UTC).timestamp()
EARLIEST_FINE = datetime(2005, 1, 1, tzinfo=UTC).timestamp()
AHEAD = 86_400.0  # seconds that clocks may be ahead
_UNITS = (1.0, 1e3, 1e6, 1e9)  # parts of a second that epochs are counted in


class _Refused(Exception):
    """Why a record is no event; the field, a code for programs, and the reason for people."""


def clean_event(
    values: Mapping[str, object], line: int = 0, zone: tzinfo = UTC, now: float | None = None
) -> Event | Reject:
    """The event in `values`, under the contract's names, or why it is none. `now` is in epoch seconds."""
    item_id = ""
    try:
        user_id = _identifier("user_id", values.get("user_id"))
        item_id = _identifier("item_id", values.get("item_id"))
        type_ = _type(values.get("type"))
        timestamp = _time(values.get("timestamp"), zone, time.time() if now is None else now)
        value = _number("value", values.get("value"))
        if type_ == "rating" and value is None:
            raise _Refused("value", "missing_value", "a rating has a value")
        position = _number("position", values.get("position"))
        if position is not None and not (position.is_integer() and 0 <= position < 1 << 31):
            raise _Refused("position", "bad_position", f"position is {position}: give a whole number from 0 on")
        texts = {name: _text(name, values.get(name)) for name in ("event_id", "request_id", "session_id", "domain")}
        query = values.get("query")
        texts["query"] = _text("query", " ".join(query.casefold().split()) if isinstance(query, str) else query)
    except _Refused as refused:
        field, code, reason = refused.args
        return Reject(line, code, reason, item_id, field)
    event_id = texts.pop("event_id") or _hash(user_id, item_id, type_, timestamp, value, texts["request_id"])
    return Event(
        event_id,
        user_id,
        item_id,
        type_,
        timestamp,
        value,
        position=None if position is None else int(position),
        **texts,
    )


def _identifier(name: str, value: object) -> str:
    found, code, reason = identifier(value)
    if code:
        raise _Refused(name, code.replace("id", name), reason.replace("the product has no id", f"there is no {name}"))
    return found


def _type(value: object) -> str:
    if not isinstance(value, str) or value.strip().lower() not in EVENT_TYPES:
        raise _Refused("type", "unknown_type", f"type is {value!r:.60}: known are {', '.join(EVENT_TYPES)}")
    return value.strip().lower()


def _time(value: object, zone: tzinfo, now: float) -> float:
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "":
        raise _Refused("timestamp", "missing_time", "there is no timestamp")
    seconds = _seconds(value, zone)
    if seconds is None:
        raise _Refused(
            "timestamp",
            "bad_time",
            f"timestamp is {value!r:.60}: give epoch seconds or ISO 8601, like 2026-01-01T00:00:00Z",
        )
    if seconds < EARLIEST:
        raise _Refused("timestamp", "time_too_early", f"timestamp {value!r:.60} is before 1995")
    if seconds > now + AHEAD:
        raise _Refused("timestamp", "time_ahead", f"timestamp {value!r:.60} has not come yet")
    return seconds


def _seconds(value: object, zone: tzinfo) -> float | None:
    """Epoch seconds of a time, or None where it is none."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=zone)).timestamp()
    number = finite(value)
    if number is not None:
        # Seconds have eleven digits until the year 5138; each finer unit has three more.
        unit = next((unit for unit in _UNITS if number < 1e11 * unit), _UNITS[-1])
        seconds = number / unit
        return seconds if unit == 1 or seconds >= EARLIEST_FINE else None
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError):
        return None


def _number(name: str, value: object) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    number = finite(value)
    if number is None:
        raise _Refused(name, f"bad_{name}", f"{name} is {value!r:.60}: give a number")
    return number


def _text(name: str, value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise _Refused(name, f"bad_{name}", f"{name} is a text of at most {MAX_TEXT} characters")
    return value.strip() or None


def _hash(*parts: object) -> str:
    return hashlib.blake2b(orjson.dumps(parts), digest_size=16).hexdigest()
