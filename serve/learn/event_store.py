"""The event log: what shoppers did, on disk before it is acknowledged; SQLite in the store, or another database by URL.

Events are kept as they came, also of items that no catalogue has yet: whoever reads them takes those of the items it
knows, so that events that came before their item count from the day it is there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from embed.behaviour import EVENT_SCHEMA, Event, as_batch
from serve.errors import BadRequest, Broken

PAGE = 50_000
_METADATA = MetaData()
_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")  # in SQLite only this is the row's own number
_EVENTS = Table(
    "events",
    _METADATA,
    Column("sequence", _SEQUENCE, primary_key=True, autoincrement=True),
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
    Index("events_of_user", "user_id", "timestamp"),
)
_COLUMNS = [_EVENTS.c[name] for name in EVENT_SCHEMA.names]


class EventStore:
    """An event log; safe in several threads and processes. Raises Broken where its database cannot be used."""

    def __init__(self, url: str) -> None:
        """Open the log at a database URL, like `sqlite:///path` or `postgresql+psycopg://...`, and make its table."""
        try:
            self._url = make_url(url)
            self._engine = create_engine(self._url, pool_pre_ping=self._url.get_backend_name() != "sqlite")
        except (ArgumentError, ModuleNotFoundError) as error:
            raise BadRequest(f"the events' database cannot be opened: {error}", "events_url") from error
        if self._engine.dialect.name not in ("sqlite", "postgresql"):
            raise BadRequest(f"events are kept in sqlite or postgresql, not {self._engine.dialect.name}", "events_url")
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
        try:
            _METADATA.create_all(self._engine)
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    def add(self, events: Sequence[Event]) -> list[bool]:
        """Keep events, on disk when this returns; whether each is new. The first of an `event_id` is kept, for good."""
        if not events:
            return []
        dialect: Any = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        statement = (
            dialect.insert(_EVENTS)
            .on_conflict_do_nothing(index_elements=[_EVENTS.c.event_id])
            .returning(_EVENTS.c.event_id)
        )
        rows = {each.event_id: asdict(each) for each in reversed(events)}  # the first of each id
        try:
            with self._engine.begin() as connection:
                new = set(connection.scalars(statement, [*reversed(rows.values())]))
        except SQLAlchemyError as error:
            raise self._broken(error) from error
        first = {each.event_id: place for place, each in reversed([*enumerate(events)])}
        return [each.event_id in new and first[each.event_id] == place for place, each in enumerate(events)]

    def recent(self, user_id: str, limit: int) -> list[Event]:
        """The user's last events by time, the latest last."""
        query = (
            select(*_COLUMNS)
            .where(_EVENTS.c.user_id == user_id)
            .order_by(_EVENTS.c.timestamp.desc(), _EVENTS.c.sequence.desc())
            .limit(limit)
        )
        return [Event(*row) for row in reversed(self._rows(query))]

    def count(self) -> int:
        """How many events there are."""
        return int(self._rows(select(func.count()).select_from(_EVENTS))[0][0])

    def batches(self, after: int = 0) -> Iterator[tuple[int, Any]]:
        """All events in the order they came, as pyarrow.RecordBatches of EVENT_SCHEMA, each with its last number.

        `after` is such a number: only what came since.
        """
        while True:
            query = select(_EVENTS.c.sequence, *_COLUMNS).where(_EVENTS.c.sequence > after)
            rows = self._rows(query.order_by(_EVENTS.c.sequence).limit(PAGE))
            if not rows:
                return
            after = rows[-1][0]
            yield after, as_batch(Event(*columns) for _, *columns in rows)

    def close(self) -> None:
        self._engine.dispose()

    def _rows(self, query: Any) -> Sequence[Any]:
        try:
            with self._engine.connect() as connection:
                return connection.execute(query).all()
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    def _broken(self, error: SQLAlchemyError) -> Broken:
        where = self._url.render_as_string(hide_password=True)
        return Broken(f"the events in {where} cannot be used: {str(error).splitlines()[0]}", "events")


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Readers and a writer at a time, and no acknowledgement before the disk has it."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}")
