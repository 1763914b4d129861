"""The database of what shoppers did and were shown: SQLite in the store, or PostgreSQL by URL for several machines."""

import hashlib
import hmac
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, MetaData, create_engine, event, inspect, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from serve.core.errors import BadRequest, StoreUnavailable
from serve.core.settings import Settings

HISTORY = "history"
KEY = "VETRINA_USER_KEY"
"""The variable that holds the key; no file of ours does."""
HASHED = "hmac:"
REMOTE: dict[str, Any] = {  # of a server, which may be gone, or too far away to be waited for
    "pool_pre_ping": True,
    "pool_size": 10,
    "max_overflow": 20,
    "pool_timeout": 5,
    "connect_args": {"connect_timeout": 5, "tcp_user_timeout": 5000},
}
_HASHED = re.compile(f"{HASHED}[0-9a-f]{{64}}")
METADATA = MetaData()
SEQUENCE = BigInteger().with_variant(Integer, "sqlite")  # in SQLite only this is the row's own number


class Database:
    """Safe in several threads and processes. Raises Broken where it cannot be used."""

    def __init__(self, url: str, key: str = "", history: Path | None = None) -> None:
        """Open a database URL, like `sqlite:///path` or `postgresql+psycopg://...`, and make its tables.

        With a `key` users are known in it by a keyed hash of their ids, see `known_as`. What is old may lie in files in
        the folder `history`, see serve.storage.archive.
        """
        self._key, self.history = key.encode(), history
        try:
            self._url = make_url(url)
            self._engine = create_engine(self._url, **(REMOTE if self._url.get_backend_name() != "sqlite" else {}))
        except (ArgumentError, ModuleNotFoundError) as error:
            raise BadRequest(f"the events' database cannot be opened: {error}", "events_url") from error
        if self._engine.dialect.name not in ("sqlite", "postgresql"):
            raise BadRequest(f"events are kept in sqlite or postgresql, not {self._engine.dialect.name}", "events_url")
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
        try:
            METADATA.create_all(self._engine)
            self._add_columns()
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    def known_as(self, user_id: str) -> str:
        """What a user is known as here: the id, or with a key its HMAC-SHA256; what is one already stays as it is."""
        if not self._key or _HASHED.fullmatch(user_id):
            return user_id
        return f"{HASHED}{hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()}"

    @property
    def dialect(self) -> Any:
        """SQLAlchemy's module of what is particular to this kind of database."""
        return sqlite if self._engine.dialect.name == "sqlite" else postgresql

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction, on disk when it ends well."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    def rows(self, query: Any, patience: float | None = None) -> Sequence[Any]:
        """What a query finds; raises Broken where a server does not answer within `patience` seconds."""
        try:
            with self._engine.connect() as connection:
                if patience is not None and self.dialect is postgresql:
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, int(patience * 1000))}")
                return connection.execute(query).all()
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    def wipe(self) -> None:
        """Leave nothing of what was deleted on disk, neither in free pages nor in the log of writes.

        In SQLite. PostgreSQL frees the space at once; when its bytes are overwritten is its own affair.
        """
        if self.dialect is postgresql:
            return
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM")
                for _ in range(50):  # readers that began before hold the log of writes for a moment
                    if not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
                        return
                    time.sleep(0.1)
        except SQLAlchemyError as error:
            raise self._broken(error) from error

    def close(self) -> None:
        self._engine.dispose()

    def _add_columns(self) -> None:
        """Give tables of earlier versions the columns that came since, which may all be empty."""
        seen = inspect(self._engine)
        for table in METADATA.sorted_tables:
            known = {column["name"] for column in seen.get_columns(table.name)}
            for column in table.c:
                if column.name not in known:
                    added = (
                        f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.type.compile(self._engine.dialect)}"
                    )
                    try:
                        with self._engine.begin() as connection:
                            connection.exec_driver_sql(added)
                    except SQLAlchemyError:  # another process may have been first
                        if column.name not in {each["name"] for each in inspect(self._engine).get_columns(table.name)}:
                            raise

    def _broken(self, error: SQLAlchemyError) -> StoreUnavailable:
        where = self._url.render_as_string(hide_password=True)
        return StoreUnavailable(f"the events in {where} cannot be used: {str(error).splitlines()[0]}", "events")


def open_database(settings: Settings) -> Database:
    """The database of a store: its own SQLite file, or what `events_url` names; with the key of the environment."""
    settings.store.mkdir(parents=True, exist_ok=True)
    url = settings.events_url or f"sqlite:///{settings.store / 'events.sqlite'}"
    return Database(url, os.environ.get(KEY, ""), settings.store / HISTORY)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Readers and a writer at a time, no acknowledgement before the disk has it, and nothing left of what is erased."""
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")
