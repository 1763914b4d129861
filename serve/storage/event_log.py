"""The event log: interactions of users with items, on disk before they are acknowledged.

Events are stored as they arrive, also those of items that the catalogue does not have yet. Readers use the events of
items that they know, so an event that arrives before its item counts from the day the item exists.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Column, Connection, Float, Index, Integer, Table, Text, and_, func, select

from embed.behaviour import EVENT_SCHEMA, Event, as_batch
from serve.core.settings import Settings
from serve.storage.archive import Archive
from serve.storage.database import METADATA, SEQUENCE, Database
from serve.storage.quarantine import Quarantine, quarantined_users
from serve.storage.store_database import open_database

PAGE_ROWS = 50_000
MAX_ITEMS = 20_000
EVENTS = Table(
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
    sqlite_autoincrement=True,  # the sequence number of a deleted row is never used again
)
_COLUMNS = [EVENTS.c[name] for name in EVENT_SCHEMA.names]


class EventLog:
    """An event log; safe in several threads and processes. Raises StoreUnavailable if its database cannot be used.

    Sequence numbers start at 1 and order the events by arrival.
    """

    def __init__(self, url: str) -> None:
        """Open the log at a database URL, such as `sqlite:///path` or `postgresql+psycopg://...`; create its tables."""
        self.database = Database(url)

    @classmethod
    def from_database(cls, database: Database) -> "EventLog":
        """Return the log in a database that is open already."""
        log = cls.__new__(cls)
        log.database = database
        return log

    def add(self, events: Sequence[Event]) -> list[bool]:
        """Store events, on disk when this returns; return whether each is new.

        Of several events with one `event_id` only the first is ever stored.
        """
        if not events:
            return []
        statement = (
            self.database.dialect.insert(EVENTS)
            .on_conflict_do_nothing(index_elements=[EVENTS.c.event_id])
            .returning(EVENTS.c.event_id)
        )
        first: dict[str, int] = {}
        for index, each in enumerate(events):
            first.setdefault(each.event_id, index)
        archived = Archive(self.database).archived_ids(list(first))
        with self.database.transaction() as connection:
            rows = [asdict(events[index]) for event_id, index in first.items() if event_id not in archived]
            for row in rows:
                row["user_id"] = self.database.stored_user_id(row["user_id"])
            new = set(connection.scalars(statement, rows)) if rows else set()
        return [each.event_id in new and first[each.event_id] == index for index, each in enumerate(events)]

    def recent(
        self,
        user_id: str,
        limit: int,
        impressions: bool = True,
        before: float | None = None,
        timeout_s: float | None = None,
    ) -> list[Event]:
        """Return the last events of a user by time, the latest last.

        Args:
            user_id: the user.
            limit: the maximum number of events.
            impressions: whether impressions are included.
            before: only events before this time, in epoch seconds.
            timeout_s: see Database.rows.
        """
        query = select(*_COLUMNS).where(EVENTS.c.user_id == self.database.stored_user_id(user_id))
        if before is not None:
            query = query.where(EVENTS.c.timestamp < before)
        if not impressions:
            query = query.where(EVENTS.c.type != "impression")
        query = query.order_by(EVENTS.c.timestamp.desc(), EVENTS.c.sequence.desc()).limit(limit)
        return [Event(*row) for row in reversed(self.database.rows(query, timeout_s))]

    def count(self, user_id: str | None = None) -> int:
        """Return the number of events in the database, of all users or of one."""
        query = select(func.count()).select_from(EVENTS)
        if user_id is not None:
            query = query.where(EVENTS.c.user_id == self.database.stored_user_id(user_id))
        return int(self.database.rows(query)[0][0])

    def user_items(self, user_id: str, types: Sequence[str], timeout_s: float | None = None) -> list[str]:
        """Return the items that a user has events of these types with, the latest first, at most MAX_ITEMS."""
        query = (
            select(EVENTS.c.item_id)
            .where(EVENTS.c.user_id == self.database.stored_user_id(user_id), EVENTS.c.type.in_(types))
            .group_by(EVENTS.c.item_id)
            .order_by(func.max(EVENTS.c.sequence).desc())
            .limit(MAX_ITEMS)
        )
        return [item_id for (item_id,) in self.database.rows(query, timeout_s)]

    def users(self) -> Iterator[str]:
        """Yield the ids of all users: first those in the database, then those only in archived files."""
        archived, after = Archive(self.database).users(), ""
        while True:
            query = select(EVENTS.c.user_id).where(EVENTS.c.user_id > after).distinct().order_by(EVENTS.c.user_id)
            rows = self.database.rows(query.limit(PAGE_ROWS))
            if not rows:
                yield from sorted(archived)
                return
            for (user_id,) in rows:
                archived.discard(user_id)
                yield user_id
            after = rows[-1][0]

    def has_events_until(self, user_id: str, until: int) -> bool:
        """Return whether a user has an event up to a sequence number."""
        own = EVENTS.c.user_id == self.database.stored_user_id(user_id)
        return bool(self.database.rows(select(EVENTS.c.sequence).where(own, EVENTS.c.sequence <= until).limit(1)))

    def has_events_since(self, since: float) -> bool:
        """Return whether there is an event from a time on (epoch seconds)."""
        query = select(EVENTS.c.sequence).where(EVENTS.c.timestamp >= since).limit(1)
        return bool(self.database.rows(query))

    def last_sequence(self) -> int:
        """Return the sequence number of the last event, 0 without events."""
        last = int(self.database.rows(select(func.coalesce(func.max(EVENTS.c.sequence), 0)))[0][0])
        return max(last, Archive(self.database).last_sequence("events"))

    def batches(self, after: int = 0, until: int | None = None, quarantined: bool = False) -> Iterator[tuple[int, Any]]:
        """Yield all events in the order of arrival, those of archived files first.

        Args:
            after: only events with greater sequence numbers.
            until: only events up to this sequence number.
            quarantined: whether events of users in quarantine are included.

        Returns:
            Pairs of the last sequence number of a batch and a pyarrow.RecordBatch of EVENT_SCHEMA.
        """
        excluded = [] if quarantined else [user_id for (user_id,) in self.database.rows(quarantined_users())]
        for table in Archive(self.database).tables("events", after, until):
            rows = table.filter(pc.invert(pc.is_in(table["user_id"], pa.array(excluded, pa.string()))))
            for name in set(EVENT_SCHEMA.names).difference(rows.column_names):  # written by an earlier version
                rows = rows.append_column(EVENT_SCHEMA.field(name), pa.nulls(len(rows), EVENT_SCHEMA.field(name).type))
            for batch in rows.select(EVENT_SCHEMA.names).cast(EVENT_SCHEMA).to_batches(PAGE_ROWS):
                yield pc.max(rows["sequence"]).as_py(), batch
        while True:
            query = select(EVENTS.c.sequence, *_COLUMNS).where(EVENTS.c.sequence > after)
            if until is not None:
                query = query.where(EVENTS.c.sequence <= until)
            if not quarantined:
                query = query.where(EVENTS.c.user_id.not_in(quarantined_users()))
            page = self.database.rows(query.order_by(EVENTS.c.sequence).limit(PAGE_ROWS))
            if not page:
                return
            after = page[-1][0]
            yield after, as_batch(Event(*columns) for _, *columns in page)

    def attributed_events(self, after: int, since: float) -> list[tuple[int, Event]]:
        """Return events that name the request of the response they follow, with sequence numbers, by arrival.

        Args:
            after: only events with greater sequence numbers.
            since: only events from this time on, in epoch seconds.

        Impressions and the events of users in quarantine are left out.
        """
        query = select(EVENTS.c.sequence, *_COLUMNS).where(
            EVENTS.c.sequence > after,
            EVENTS.c.request_id.is_not(None),
            EVENTS.c.type != "impression",
            EVENTS.c.timestamp >= since,
            EVENTS.c.user_id.not_in(quarantined_users()),
        )
        rows = self.database.rows(query.order_by(EVENTS.c.sequence))
        return [(sequence, Event(*values)) for sequence, *values in rows]

    def archive_before(self, before: float) -> int:
        """Move impressions from before a time (epoch seconds) into a file; return how many, 0 if none is left."""
        old = and_(EVENTS.c.type == "impression", EVENTS.c.timestamp < before)
        return Archive(self.database).move("events", EVENTS, old)

    def delete_before(self, before: float) -> int:
        """Delete the events from before a time (epoch seconds) that are not in files; return how many."""
        with self.database.transaction() as connection:
            return connection.execute(EVENTS.delete().where(EVENTS.c.timestamp < before)).rowcount

    def erase(self, connection: Connection, user_id: str, until: float | None = None) -> int:
        """Delete the events of a user within a transaction, optionally only those up to a time; return how many.

        The quarantine entry of the user is deleted too.
        """
        Quarantine(self.database).erase(connection, user_id, until)
        statement = EVENTS.delete().where(EVENTS.c.user_id == user_id)
        if until is not None:
            statement = statement.where(EVENTS.c.timestamp <= until)
        return connection.execute(statement).rowcount

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def open_event_log(settings: Settings) -> EventLog:
    """Open the event log of a store: in its own SQLite file, or in the database that `events_url` names."""
    return EventLog.from_database(open_database(settings))
