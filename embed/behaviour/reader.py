"""Files of events: CSV, TSV, JSONL or Parquet, under the contract's names or by a mapping.

A file whose columns have the contract's own names needs none. Any other is described in a TOML file:

    format = "csv"                  # optional: csv jsonl parquet; otherwise recognised
    encoding = "latin-1"            # optional
    delimiter = ";"                 # optional
    timezone = "Europe/Rome"        # optional: of times that do not say; otherwise UTC

    [columns]                       # the contract's name = the file's column
    user_id = "UserId"
    type = "action"

    [types]                         # the file's word = the contract's
    buy = "purchase"
    favourite = "cart"

    [defaults]                      # for events that do not say
    type = "click"
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from embed.behaviour.cleaning import clean_event
from embed.behaviour.event import EVENT_TYPES, Event
from embed.errors import BadInput
from embed.records import (
    Record,
    Reject,
    known_names,
    open_source,
    plain_name,
    read_jsonl,
    read_parquet,
    read_table,
    read_toml,
)

CONTRACT = tuple(part.name for part in fields(Event))
REQUIRED = ("user_id", "item_id", "type", "timestamp")
FORMATS = ("csv", "jsonl", "parquet")
MAX_NAMES = 10_000  # of columns that are remembered, should records all have their own


@dataclass(frozen=True)
class EventMapping:
    """Where each part of an event comes from, and what the file's words for types mean."""

    columns: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    format: str = ""
    timezone: str = ""

    @classmethod
    def load(cls, path: Path) -> "EventMapping":
        """Read a TOML file; raises Missing, or BadInput naming what is wrong and what would be right."""
        toml = read_toml(path)
        known_names(toml, [part.name for part in fields(cls)], path.name)
        for name, value in toml.items():
            is_table = name in ("columns", "types", "defaults")
            texts = value.values() if is_table and isinstance(value, dict) else [value]
            if isinstance(value, dict) != is_table or not all(isinstance(text, str) for text in texts):
                kind = "a table of texts" if is_table else "a text in quotes"
                raise BadInput(f"{path.name}: {name} is {kind}, not {value!r:.60}", name)
        mapping = cls(**toml)
        known_names(mapping.columns, CONTRACT, f"{path.name} [columns]")
        known_names(mapping.defaults, CONTRACT, f"{path.name} [defaults]")
        known_names(mapping.types.values(), EVENT_TYPES, f"{path.name} [types]")
        if mapping.format:
            known_names([mapping.format], FORMATS, f"{path.name}: format")
        _zone(mapping.timezone)
        return mapping


@dataclass
class Events:
    """Events of a file as they are read; `position()` is how many of its bytes have been."""

    format: str
    entries: Iterator[Event | Reject]
    position: Callable[[], int]


@contextmanager
def open_events(path: Path, mapping: EventMapping | None = None, now: float | None = None) -> Iterator[Events]:
    """Open a file of events, plain or gzipped; memory stays bounded whatever its size.

    Raises Missing, BadInput for a file without the columns that an event needs, or Damaged, also while being read.
    """
    mapping = mapping or EventMapping()
    with open_source(path, "events") as source:
        format_ = mapping.format or source.looks_like or "csv"
        if format_ not in FORMATS:
            raise BadInput(f"{path.name} is {format_}: events come as {', '.join(FORMATS)}", "events")
        columns: tuple[str, ...] | None = None
        records: Iterator[Record | Reject]
        position = source.position
        if format_ == "jsonl":
            records = read_jsonl(source, mapping.encoding)
        elif format_ == "parquet":
            parquet = read_parquet(source)
            records, columns, position = parquet.records, parquet.columns, parquet.position
        else:
            table = read_table(source, mapping.encoding, mapping.delimiter)
            records, columns = iter(table), table.columns
        yield Events(format_, _events(records, columns, mapping, now), position)


def _events(
    records: Iterator[Record | Reject], columns: tuple[str, ...] | None, mapping: EventMapping, now: float | None
) -> Iterator[Event | Reject]:
    zone = _zone(mapping.timezone)
    plans: dict[tuple[str, ...], dict[str, str]] = {}
    found: set[str] = set(mapping.defaults)
    seen: dict[str, None] = dict.fromkeys(columns or ())
    if columns is not None:
        found |= _plan(mapping, columns).keys()
        if columns:
            _check(found, seen)
    kept = 0
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        names = tuple(record.values)
        plan = plans.get(names)
        if plan is None:
            if len(plans) >= 1000:  # records that all differ: forget, so that memory stays bounded
                plans.clear()
            plan = plans[names] = _plan(mapping, names)
            found |= plan.keys()
            if len(seen) < MAX_NAMES:
                seen |= dict.fromkeys(names)
        said = {name: record.values[column] for name, column in plan.items()}
        values = said | {name: default for name, default in mapping.defaults.items() if said.get(name) in (None, "")}
        type_ = values.get("type")
        values["type"] = mapping.types.get(type_, type_) if isinstance(type_, str) else type_
        event = clean_event(values, record.line, zone, now)
        kept += isinstance(event, Event)
        yield event
    if seen and not kept:
        _check(found, seen)


def _plan(mapping: EventMapping, columns: tuple[str, ...]) -> dict[str, str]:
    """The columns at hand, by the contract's names."""
    here = {plain_name(column): column for column in reversed(columns)} | {column: column for column in columns}
    wanted = {name: mapping.columns.get(name, name) for name in CONTRACT}
    found = {name: here.get(column) or here.get(plain_name(column)) for name, column in wanted.items()}
    return {name: column for name, column in found.items() if column}


def _check(found: set[str], seen: dict[str, None]) -> None:
    """Raise BadInput where nothing can come of a file, as it lacks what every event needs."""
    for name in REQUIRED:
        if name not in found:
            raise BadInput(
                f"the events have no {name}; columns found: {', '.join(list(seen)[:40])}; name yours in a mapping, "
                f'under [columns]: {name} = "your column"',
                name,
            )


def _zone(name: str) -> tzinfo:
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadInput(f"there is no time zone {name!r}; for example Europe/Rome", "timezone") from error
