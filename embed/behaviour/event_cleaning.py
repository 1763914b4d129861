"""Cleans events: a record with the standard field names becomes an Event or a Reject.

- **Null** is the same as an absent field, for every field.
- **Ids** of users and items are read like those of products: text as it is, trimmed; whole numbers become digits.
- **Times** are epoch seconds, milliseconds, microseconds or nanoseconds, or ISO 8601. The unit of an epoch follows from
  its size; units below a second are accepted from 2005 on, because no shop wrote them before. An ISO time without an
  offset is in the mapping's time zone, else UTC. Times before 1995, more than a day ahead, or in any other notation are
  invalid: `01/02/2026` may be two different days.
- **Values** are numbers; NaN and infinities are invalid. A rating must have one.
- **Queries** become lower case, and each run of spaces becomes one space.
- **Event ids** are kept; an event without one gets the hash of its content, so that a file may be read twice.
"""

import hashlib
import time
from collections.abc import Mapping
from datetime import UTC, datetime, tzinfo

import orjson

from embed.behaviour.event import DAY, EVENT_TYPES, Event
from embed.catalogue.item_cleaning import parse_identifier, parse_number
from embed.records import Reject

MAX_TEXT = 512
MIN_TIME = datetime(1995, 1, 1, tzinfo=UTC).timestamp()
MIN_FINE_TIME = datetime(2005, 1, 1, tzinfo=UTC).timestamp()
MAX_CLOCK_SKEW = DAY  # that the sender's clock may be ahead
_UNITS_PER_SECOND = (1.0, 1e3, 1e6, 1e9)  # units of epochs, per second


class _InvalidField(Exception):
    """A field of a record is invalid. Arguments: the field, a code for programs, a reason for people."""


def clean_event(
    values: Mapping[str, object], line: int = 0, zone: tzinfo = UTC, now: float | None = None
) -> Event | Reject:
    """Clean one event.

    Args:
        values: Fields under their standard names; None counts as absent.
        line: Line of the record in its file.
        zone: Time zone of times without an offset.
        now: The current time in epoch seconds; the clock's time by default.

    Returns:
        The event, or why it is invalid.
    """
    item_id = ""
    try:
        user_id = _identifier("user_id", values.get("user_id"))
        item_id = _identifier("item_id", values.get("item_id"))
        type_ = _type(values.get("type"))
        timestamp = _time(values.get("timestamp"), zone, time.time() if now is None else now)
        value = _number("value", values.get("value"))
        if type_ == "rating" and value is None:
            raise _InvalidField("value", "missing_value", "a rating needs a value: give a number")
        position = _number("position", values.get("position"))
        if position is not None and not (position.is_integer() and 0 <= position < 1 << 31):
            raise _InvalidField("position", "bad_position", f"position {position} is invalid: give an integer >= 0")
        texts = {name: _text(name, values.get(name)) for name in ("event_id", "request_id", "session_id", "domain")}
        query = values.get("query")
        texts["query"] = _text("query", " ".join(query.casefold().split()) if isinstance(query, str) else query)
    except _InvalidField as refused:
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
    result, code, reason = parse_identifier(value)
    if code:
        reason = reason.replace("the product has no id", f"{name} is missing")
        raise _InvalidField(name, code.replace("id", name), reason)
    return result


def _type(value: object) -> str:
    if not isinstance(value, str) or value.strip().lower() not in EVENT_TYPES:
        raise _InvalidField("type", "unknown_type", f"type {value!r:.60} is unknown: use {', '.join(EVENT_TYPES)}")
    return value.strip().lower()


def _time(value: object, zone: tzinfo, now: float) -> float:
    if isinstance(value, str):
        value = value.strip()
    if value is None or value == "":
        raise _InvalidField("timestamp", "missing_time", "timestamp is missing")
    seconds = _seconds(value, zone)
    if seconds is None:
        raise _InvalidField(
            "timestamp",
            "bad_time",
            f"timestamp {value!r:.60} is invalid: give epoch seconds or ISO 8601, like 2026-01-01T00:00:00Z",
        )
    if seconds < MIN_TIME:
        raise _InvalidField("timestamp", "time_too_early", f"timestamp {value!r:.60} is before 1995")
    if seconds > now + MAX_CLOCK_SKEW:
        raise _InvalidField("timestamp", "time_ahead", f"timestamp {value!r:.60} is more than a day in the future")
    return seconds


def _seconds(value: object, zone: tzinfo) -> float | None:
    """Return a time in epoch seconds, or None if it is invalid."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=zone)).timestamp()
    number = parse_number(value)
    if number is not None:
        # Seconds have eleven digits until the year 5138; each finer unit has three more.
        unit = next((unit for unit in _UNITS_PER_SECOND if number < 1e11 * unit), _UNITS_PER_SECOND[-1])
        seconds = number / unit
        return seconds if unit == 1 or seconds >= MIN_FINE_TIME else None
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
    number = parse_number(value)
    if number is None:
        raise _InvalidField(name, f"bad_{name}", f"{name} {value!r:.60} is not a number: give a number")
    return number


def _text(name: str, value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise _InvalidField(name, f"bad_{name}", f"{name} is invalid: give text of at most {MAX_TEXT} characters")
    return value.strip() or None


def _hash(*parts: object) -> str:
    return hashlib.blake2b(orjson.dumps(parts), digest_size=16).hexdigest()
