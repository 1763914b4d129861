"""Reads files of events: CSV, TSV, JSONL or Parquet, with standard column names or a mapping.

A file with the standard column names needs no mapping. A TOML file describes any other:

    format = "csv"                  # optional: csv jsonl parquet; detected by default
    encoding = "latin-1"            # optional
    delimiter = ";"                 # optional
    timezone = "Europe/Rome"        # optional: of times without an offset; UTC by default

    [columns]                       # standard name = the file's column
    user_id = "UserId"
    type = "action"

    [types]                         # the file's value = standard type
    buy = "purchase"
    favourite = "cart"

    [defaults]                      # for events without a value
    type = "click"
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from embed.behaviour.event import EVENT_TYPES, Event
from embed.behaviour.event_cleaning import clean_event
from embed.errors import BadInput
from embed.records import (
    Record,
    Reject,
    check_names,
    normalize_name,
    open_record_file,
    read_jsonl,
    read_parquet,
    read_table,
    read_toml,
)

EVENT_FIELDS = tuple(part.name for part in fields(Event))
REQUIRED_FIELDS = ("user_id", "item_id", "type", "timestamp")
FORMATS = ("csv", "jsonl", "parquet")
MAX_COLUMNS = 10_000  # of columns that are remembered, in case every record has its own


@dataclass(frozen=True)
class EventMapping:
    """Which column each field of an event comes from, and which type each of the file's values means."""

    columns: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    format: str = ""
    timezone: str = ""

    @classmethod
    def load(cls, path: Path) -> "EventMapping":
        """Read a TOML file; raises Missing, or BadInput naming what is invalid and what is valid."""
        toml = read_toml(path)
        check_names(toml, [part.name for part in fields(cls)], path.name)
        for name, value in toml.items():
            is_table = name in ("columns", "types", "defaults")
            texts = value.values() if is_table and isinstance(value, dict) else [value]
            if isinstance(value, dict) != is_table or not all(isinstance(text, str) for text in texts):
                kind = "a table of texts" if is_table else "a text in quotes"
                raise BadInput(f"{path.name}: {name} is {value!r:.60}: it must be {kind}", name)
        mapping = cls(**toml)
        check_names(mapping.columns, EVENT_FIELDS, f"{path.name} [columns]")
        check_names(mapping.defaults, EVENT_FIELDS, f"{path.name} [defaults]")
        check_names(mapping.types.values(), EVENT_TYPES, f"{path.name} [types]")
        if mapping.format:
            check_names([mapping.format], FORMATS, f"{path.name}: format")
        _zone(mapping.timezone)
        return mapping


@dataclass
class EventStream:
    """The events of a file as they are read; `position()` is the number of bytes read so far."""

    format: str
    entries: Iterator[Event | Reject]
    position: Callable[[], int]


@contextmanager
def open_events(path: Path, mapping: EventMapping | None = None, now: float | None = None) -> Iterator[EventStream]:
    """Open a file of events, plain or gzipped. Memory use does not grow with the file.

    Raises Missing, BadInput for a file without the required columns, or Damaged, also while the file is read.
    """
    mapping = mapping or EventMapping()
    with open_record_file(path, "events") as source:
        format_ = mapping.format or source.looks_like or "csv"
        if format_ not in FORMATS:
            raise BadInput(f"{path.name} has format {format_}: use one of {', '.join(FORMATS)}", "events")
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
        yield EventStream(format_, _events(records, columns, mapping, now), position)


def _events(
    records: Iterator[Record | Reject], columns: tuple[str, ...] | None, mapping: EventMapping, now: float | None
) -> Iterator[Event | Reject]:
    zone = _zone(mapping.timezone)
    plans: dict[tuple[str, ...], dict[str, str]] = {}
    mapped: set[str] = set(mapping.defaults)
    file_columns: dict[str, None] = dict.fromkeys(columns or ())
    if columns is not None:
        mapped |= _map_columns(mapping, columns).keys()
        if columns:
            _check(mapped, file_columns)
    valid = 0
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        names = tuple(record.values)
        plan = plans.get(names)
        if plan is None:
            if len(plans) >= 1000:  # every record has its own columns: bound the memory
                plans.clear()
            plan = plans[names] = _map_columns(mapping, names)
            mapped |= plan.keys()
            if len(file_columns) < MAX_COLUMNS:
                file_columns |= dict.fromkeys(names)
        values = {name: record.values[column] for name, column in plan.items()}
        values |= {name: default for name, default in mapping.defaults.items() if values.get(name) in (None, "")}
        type_ = values.get("type")
        values["type"] = mapping.types.get(type_, type_) if isinstance(type_, str) else type_
        event = clean_event(values, record.line, zone, now)
        valid += isinstance(event, Event)
        yield event
    if file_columns and not valid:
        _check(mapped, file_columns)


def _map_columns(mapping: EventMapping, columns: tuple[str, ...]) -> dict[str, str]:
    """Return which of the columns each field comes from."""
    present = {normalize_name(column): column for column in reversed(columns)} | {column: column for column in columns}
    requested = {name: mapping.columns.get(name, name) for name in EVENT_FIELDS}
    matches = {name: present.get(column) or present.get(normalize_name(column)) for name, column in requested.items()}
    return {name: column for name, column in matches.items() if column}


def _check(mapped: set[str], columns: dict[str, None]) -> None:
    """Raise BadInput if a file has no column for a required field."""
    for name in REQUIRED_FIELDS:
        if name not in mapped:
            raise BadInput(
                f"no column for {name}; columns of the file: {', '.join(list(columns)[:40])}; name the column in a "
                f'mapping, under [columns]: {name} = "your column"',
                name,
            )


def _zone(name: str) -> tzinfo:
    if not name:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadInput(f"time zone {name!r} does not exist: use a name like Europe/Rome", "timezone") from error
