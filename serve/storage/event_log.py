"""The event log: what shoppers did, on disk before it is acknowledged; SQLite in the store, or another database by URL.

Events are kept as they came, also of items that no catalogue has yet: whoever reads them takes those of the items it
knows, so that events that came before their item count from the day it is there.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Column, Connection, Float, Index, Integer, Table, Text, and_, cast, func, select
from sqlalchemy.dialects import sqlite

from embed.behaviour import EVENT_SCHEMA, Event, as_batch
from serve.core.settings import Settings
from serve.storage.archive import Archive
from serve.storage.database import METADATA, SEQUENCE, Database, open_database

PAGE = 50_000
MAX_ITEMS = 20_000
LATE_SECONDS = 2.0
LATEST = 20_000  # events that tell who is there
MAX_COUNTED = 500_000
MIN_SHOPPERS = 3
_EVENTS = Table(
    "events",
    METADATA,
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=True),
    Column("event_id", Text, nullable=False, unique=True),
    Column("user_id", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("timestamp", Float, nullable=False),
    Column("value", Float),
    Column("request_id", Text),
    Column("position", Integer),
    Column("session_id", Text),
    Column("domain", Text),
    Column("query", Text),
    Index("events_of_user", "user_id", "timestamp"),
    sqlite_autoincrement=True,  # a number that was erased must not come again
)
_QUARANTINE = Table(
    "quarantine",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("since", Float, nullable=False),
    Column("released", Float),
)
_COLUMNS = [_EVENTS.c[name] for name in EVENT_SCHEMA.names]


@dataclass(frozen=True)
class Quarantined:
    """A user whose events are kept but not learned from, since when and why; until `released`, if that is given."""

    user_id: str
    reason: str
    since: float
    released: float | None


def in_quarantine() -> Any:
    """A subquery: the ids of the users who are in quarantine."""
    return select(_QUARANTINE.c.user_id).where(_QUARANTINE.c.released.is_(None))


class EventLog:
    """An event log; safe in several threads and processes. Raises Broken where its database cannot be used."""

    def __init__(self, url: str) -> None:
        """Open the log at a database URL, like `sqlite:///path` or `postgresql+psycopg://...`, and make its tables."""
        self.database = Database(url)

    @classmethod
    def of(cls, database: Database) -> "EventLog":
        """The log in a database that is open already."""
        store = cls.__new__(cls)
        store.database = database
        return store

    def add(self, events: Sequence[Event]) -> list[bool]:
        """Keep events, on disk when this returns; whether each is new. The first of an `event_id` is kept, for good."""
        if not events:
            return []
        statement = (
            self.database.dialect.insert(_EVENTS)
            .on_conflict_do_nothing(index_elements=[_EVENTS.c.event_id])
            .returning(_EVENTS.c.event_id)
        )
        first: dict[str, int] = {}
        for place, each in enumerate(events):
            first.setdefault(each.event_id, place)
        archived = Archive(self.database).known(list(first))
        with self.database.writing() as connection:
            rows = [asdict(events[place]) for event_id, place in first.items() if event_id not in archived]
            for row in rows:
                row["user_id"] = self.database.known_as(row["user_id"])
            new = set(connection.scalars(statement, rows)) if rows else set()
        return [each.event_id in new and first[each.event_id] == place for place, each in enumerate(events)]

    def recent(
        self,
        user_id: str,
        limit: int,
        impressions: bool = True,
        before: float | None = None,
        patience: float | None = None,
    ) -> list[Event]:
        """The user's last events by time, the latest last; without `impressions` only what the user did.

        Only those before a moment, where one is given. `patience` as in Database.rows.
        """
        query = select(*_COLUMNS).where(_EVENTS.c.user_id == self.database.known_as(user_id))
        if before is not None:
            query = query.where(_EVENTS.c.timestamp < before)
        if not impressions:
            query = query.where(_EVENTS.c.type != "impression")
        query = query.order_by(_EVENTS.c.timestamp.desc(), _EVENTS.c.sequence.desc()).limit(limit)
        return [Event(*row) for row in reversed(self.database.rows(query, patience))]

    def count(self, user_id: str | None = None) -> int:
        """How many events there are, in all or of a user."""
        query = select(func.count()).select_from(_EVENTS)
        if user_id is not None:
            query = query.where(_EVENTS.c.user_id == self.database.known_as(user_id))
        return int(self.database.rows(query)[0][0])

    def items(self, user_id: str, types: Sequence[str], patience: float | None = None) -> list[str]:
        """The items that the user has events of these types with, each once, at most MAX_ITEMS of the latest."""
        latest = func.max(_EVENTS.c.sequence)
        query = (
            select(_EVENTS.c.item_id)
            .where(_EVENTS.c.user_id == self.database.known_as(user_id), _EVENTS.c.type.in_(types))
            .group_by(_EVENTS.c.item_id)
            .order_by(latest.desc())
            .limit(MAX_ITEMS)
        )
        return [item_id for (item_id,) in self.database.rows(query, patience)]

    def users_of(self, item_id: str) -> set[str]:
        """Who did anything to an item, but see it."""
        query = select(_EVENTS.c.user_id).where(_EVENTS.c.item_id == item_id, _EVENTS.c.type != "impression").distinct()
        return {user_id for (user_id,) in self.database.rows(query)}

    def quarantines(self) -> int:
        """How many users are in quarantine."""
        return int(self.database.rows(select(func.count()).select_from(in_quarantine().subquery()))[0][0])

    def searched(self, most: int) -> list[tuple[str, str]]:
        """Queries with the items that shoppers then took to, those of most shoppers first.

        Nothing of who is in quarantine.
        """
        query = (
            select(_EVENTS.c.query, _EVENTS.c.item_id)
            .where(
                _EVENTS.c.query.is_not(None),
                _EVENTS.c.type.in_(("click", "cart", "purchase")),
                _EVENTS.c.user_id.not_in(in_quarantine()),
            )
            .group_by(_EVENTS.c.query, _EVENTS.c.item_id)
            .order_by(func.count(_EVENTS.c.user_id.distinct()).desc(), _EVENTS.c.query, _EVENTS.c.item_id)
        )
        return [(said, item_id) for said, item_id in self.database.rows(query.limit(most))]

    def queries(self, most: int) -> list[tuple[str, int]]:
        """What at least MIN_SHOPPERS searched for, by how many: what fewer did may tell who they are."""
        users = func.count(_EVENTS.c.user_id.distinct())
        query = (
            select(_EVENTS.c.query, users)
            .where(_EVENTS.c.query.is_not(None), _EVENTS.c.user_id.not_in(in_quarantine()))
            .group_by(_EVENTS.c.query)
            .having(users >= MIN_SHOPPERS)
            .order_by(users.desc(), _EVENTS.c.query)
        )
        return [(said, count) for said, count in self.database.rows(query.limit(most))]

    def users(self) -> Iterator[str]:
        """The ids of all users, in order; then those who are only in files."""
        elsewhere, after = Archive(self.database).users(), ""
        while True:
            query = select(_EVENTS.c.user_id).where(_EVENTS.c.user_id > after).distinct().order_by(_EVENTS.c.user_id)
            rows = self.database.rows(query.limit(PAGE))
            if not rows:
                yield from sorted(elsewhere)
                return
            for (user_id,) in rows:
                elsewhere.discard(user_id)
                yield user_id
            after = rows[-1][0]

    def knew(self, user_id: str, until: int) -> bool:
        """Whether there was an event of the user among those up to a number."""
        own = _EVENTS.c.user_id == self.database.known_as(user_id)
        return bool(self.database.rows(select(_EVENTS.c.sequence).where(own, _EVENTS.c.sequence <= until).limit(1)))

    def active(self, most: int) -> list[tuple[str, int, float]]:
        """The users of the latest events, the latest first: events among those looked at, and when the last was."""
        latest = func.max(_EVENTS.c.sequence)
        query = (
            select(_EVENTS.c.user_id, func.count(), func.max(_EVENTS.c.timestamp))
            .where(_EVENTS.c.sequence > self.last() - LATEST)
            .group_by(_EVENTS.c.user_id)
            .order_by(latest.desc())
        )
        return [(user_id, count, last) for user_id, count, last in self.database.rows(query.limit(most))]

    def rates(self, since: float) -> list[tuple[int, str, int]]:
        """By hour (since 1970) and type how many events there were from a moment on, of the MAX_COUNTED latest."""
        hours = _EVENTS.c.timestamp / 3600
        # SQLite's cast cuts off, PostgreSQL's rounds.
        hour = cast(hours if self.database.dialect is sqlite else func.floor(hours), Integer)
        query = (
            select(hour, _EVENTS.c.type, func.count())
            .where(_EVENTS.c.sequence > self.last() - MAX_COUNTED, _EVENTS.c.timestamp >= since)
            .group_by(hour, _EVENTS.c.type)
            .order_by(hour, _EVENTS.c.type)
        )
        return [(int(at), type_, count) for at, type_, count in self.database.rows(query)]

    def last(self) -> int:
        """The number of the last event, 0 for none."""
        here = int(self.database.rows(select(func.coalesce(func.max(_EVENTS.c.sequence), 0)))[0][0])
        return max(here, Archive(self.database).last("events"))

    def happened_since(self, moment: float) -> bool:
        """Whether anything happened at a moment (epoch seconds) or after it."""
        query = select(_EVENTS.c.sequence).where(_EVENTS.c.timestamp >= moment).limit(1)
        return bool(self.database.rows(query))

    def batches(self, after: int = 0, until: int | None = None, quarantined: bool = False) -> Iterator[tuple[int, Any]]:
        """All events in the order they came, as pyarrow.RecordBatches of EVENT_SCHEMA, each with its last number.

        `after` and `until` are such numbers: only what came since, and only up to there. Those of users who are in
        quarantine come only where they are asked for. Those that were moved into files come first.
        """
        excluded = [] if quarantined else [user_id for (user_id,) in self.database.rows(in_quarantine())]
        for table in Archive(self.database).tables("events", after, until):
            kept = table.filter(pc.invert(pc.is_in(table["user_id"], pa.array(excluded, pa.string()))))
            for name in set(EVENT_SCHEMA.names).difference(kept.column_names):  # the file is older than that
                kept = kept.append_column(EVENT_SCHEMA.field(name), pa.nulls(len(kept), EVENT_SCHEMA.field(name).type))
            for batch in kept.select(EVENT_SCHEMA.names).cast(EVENT_SCHEMA).to_batches(PAGE):
                yield pc.max(kept["sequence"]).as_py(), batch
        while True:
            query = select(_EVENTS.c.sequence, *_COLUMNS).where(_EVENTS.c.sequence > after)
            if until is not None:
                query = query.where(_EVENTS.c.sequence <= until)
            if not quarantined:
                query = query.where(_EVENTS.c.user_id.not_in(in_quarantine()))
            rows = self.database.rows(query.order_by(_EVENTS.c.sequence).limit(PAGE))
            if not rows:
                return
            after = rows[-1][0]
            yield after, as_batch(Event(*columns) for _, *columns in rows)

    def quarantine(self, reasons: Mapping[str, str]) -> None:
        """Put users into quarantine, by why; on disk when this returns. Who is, or was released from it, stays so."""
        if not reasons:
            return
        statement = self.database.dialect.insert(_QUARANTINE).on_conflict_do_nothing(index_elements=["user_id"])
        rows = [{"user_id": user, "reason": why, "since": time.time()} for user, why in reasons.items()]
        with self.database.writing() as connection:
            connection.execute(statement, rows)

    def release(self, user_id: str) -> bool:
        """Learn from a user again, for good; whether there was such a one."""
        own = _QUARANTINE.c.user_id == self.database.known_as(user_id)
        with self.database.writing() as connection:
            statement = _QUARANTINE.update().where(own, _QUARANTINE.c.released.is_(None))
            return connection.execute(statement.values(released=time.time())).rowcount > 0

    def quarantined(self) -> list[Quarantined]:
        """Who is in quarantine, and who was released from it, by since when."""
        return [Quarantined(*row) for row in self.database.rows(select(_QUARANTINE).order_by(_QUARANTINE.c.since))]

    def move(self, before: float) -> int:
        """Move impressions from before a moment into a file; how many, 0 if none is left."""
        old = and_(_EVENTS.c.type == "impression", _EVENTS.c.timestamp < before)
        return Archive(self.database).move("events", _EVENTS, old)

    def forget(self, before: float) -> int:
        """Delete the events from before a moment that are not in files; how many they were."""
        with self.database.writing() as connection:
            return connection.execute(_EVENTS.delete().where(_EVENTS.c.timestamp < before)).rowcount

    def erase(self, connection: Connection, user_id: str, until: float | None = None) -> int:
        """Remove the events of a user, or those up to a moment, within a transaction; how many they were."""
        statement = _EVENTS.delete().where(_EVENTS.c.user_id == user_id)
        if until is not None:
            statement = statement.where(_EVENTS.c.timestamp <= until)
        if until is None:
            connection.execute(_QUARANTINE.delete().where(_QUARANTINE.c.user_id == user_id))
        return connection.execute(statement).rowcount

    @property
    def late(self) -> float:
        """By how many seconds a row may come to light after one with a greater number: SQLite has one writer."""
        return 0.0 if self.database.dialect is sqlite else LATE_SECONDS

    def acts(self, after: int, since: float) -> list[tuple[int, Event]]:
        """What shoppers did with answers since a moment, in the order it came, with its numbers: those after one."""
        query = select(_EVENTS.c.sequence, *_COLUMNS).where(
            _EVENTS.c.sequence > after,
            _EVENTS.c.request_id.is_not(None),
            _EVENTS.c.type != "impression",
            _EVENTS.c.timestamp >= since,
            _EVENTS.c.user_id.not_in(in_quarantine()),
        )
        rows = self.database.rows(query.order_by(_EVENTS.c.sequence))
        return [(sequence, Event(*values)) for sequence, *values in rows]

    def close(self) -> None:
        self.database.close()


def open_event_log(settings: Settings) -> EventLog:
    """The event log of a store: its own SQLite file, or the database that `events_url` names."""
    return EventLog.of(open_database(settings))
