"""Database access: SQLite in the store, or PostgreSQL for several machines."""

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, MetaData, create_engine, event, inspect, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from serve.core.errors import BadRequest, StoreUnavailable

USER_KEY_VARIABLE = "VETRINA_USER_KEY"
"""The environment variable with the key that user ids are hashed with; the key is written to no file."""
HASH_PREFIX = "hmac:"
SERVER_OPTIONS: dict[str, Any] = {  # a database server may be down or unreachable: fail within seconds
    "pool_pre_ping": True,
    "pool_size": 10,
    "max_overflow": 20,
    "pool_timeout": 5,
    "connect_args": {"connect_timeout": 5, "tcp_user_timeout": 5000},
}
COMMIT_LAG_SECONDS = 2.0  # of PostgreSQL, where transactions commit in any order
_HASHED_ID = re.compile(f"{HASH_PREFIX}[0-9a-f]{{64}}")
METADATA = MetaData()
SEQUENCE = BigInteger().with_variant(Integer, "sqlite")  # in SQLite only an INTEGER key is the row number


class Database:
    """A database; safe in several threads and processes. Raises StoreUnavailable if it cannot be used."""

    def __init__(self, url: str, key: str = "", history: Path | None = None, create_tables: bool = True) -> None:
        """Open a database.

        Args:
            url: such as `sqlite:///path` or `postgresql+psycopg://...`.
            key: if set, user ids are stored as keyed hashes, see `stored_user_id`.
            history: the folder of the archive, see serve.storage.archive; None without a store.
            create_tables: whether to call `create_tables`; without it nothing in the database changes.
        """
        self._key, self.history = key.encode(), history
        self.after_write: Callable[[], None] | None = None  # called after each transaction
        try:
            self._url = make_url(url)
            self._engine = create_engine(
                self._url, **(SERVER_OPTIONS if self._url.get_backend_name() != "sqlite" else {})
            )
        except (ArgumentError, ModuleNotFoundError) as error:
            raise BadRequest(f"events_url is invalid: {error}", "events_url") from error
        if self._engine.dialect.name not in ("sqlite", "postgresql"):
            raise BadRequest(
                f"events_url is invalid: {self._engine.dialect.name} is not supported, use sqlite or postgresql",
                "events_url",
            )
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
        if create_tables:
            self.create_tables()

    def create_tables(self) -> None:
        """Create the tables and columns that the database lacks."""
        try:
            if self.dialect is sqlite:  # the file keeps this mode, in which readers run beside a writer
                with self._engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            METADATA.create_all(self._engine)
            self._add_columns()
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error

    def has_table(self, name: str) -> bool:
        """Return whether the database has a table."""
        try:
            return inspect(self._engine).has_table(name)
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error

    def stored_user_id(self, user_id: str) -> str:
        """Return the id under which a user is stored: with a key its HMAC-SHA256, unless it is one already."""
        if not self._key or _HASHED_ID.fullmatch(user_id):
            return user_id
        return f"{HASH_PREFIX}{hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()}"

    @property
    def dialect(self) -> Any:
        """SQLAlchemy's module for this kind of database, `sqlite` or `postgresql`."""
        return sqlite if self._engine.dialect.name == "sqlite" else postgresql

    @property
    def commit_lag(self) -> float:
        """Seconds by which a row may become visible after a row with a greater sequence number: 0 in SQLite."""
        return 0.0 if self.dialect is sqlite else COMMIT_LAG_SECONDS

    @property
    def location(self) -> str:
        """The URL without its password."""
        return self._url.render_as_string(hide_password=True)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run a transaction; it is on disk when the block ends without an error."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error
        if self.after_write is not None:
            self.after_write()

    def rows(self, query: Any, timeout_s: float | None = None) -> Sequence[Any]:
        """Return the rows of a query; raises StoreUnavailable if a server takes longer than `timeout_s` seconds."""
        try:
            with self._engine.connect() as connection:
                if timeout_s is not None and self.dialect is postgresql:
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {max(1, int(timeout_s * 1000))}")
                return connection.execute(query).all()
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error

    def purge(self) -> None:
        """Remove deleted rows from the bytes on disk: from free pages and from the write-ahead log.

        Only in SQLite. PostgreSQL frees the space at once and decides itself when it overwrites the bytes.
        """
        if self.dialect is postgresql:
            return
        try:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql("VACUUM")
                for _ in range(50):  # earlier readers may hold the write-ahead log for a moment
                    if not connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
                        return
                    time.sleep(0.1)
        except SQLAlchemyError as error:
            raise self._unavailable(error) from error

    def close(self) -> None:
        self._engine.dispose()

    def _add_columns(self) -> None:
        """Add columns that tables of earlier versions lack; all of them are nullable."""
        inspector = inspect(self._engine)
        for table in METADATA.sorted_tables:
            existing = {column["name"] for column in inspector.get_columns(table.name)}
            for column in table.c:
                if column.name not in existing:
                    statement = (
                        f"ALTER TABLE {table.name} ADD COLUMN {column.name} {column.type.compile(self._engine.dialect)}"
                    )
                    try:
                        with self._engine.begin() as connection:
                            connection.exec_driver_sql(statement)
                    except SQLAlchemyError:  # another process may have added it
                        if column.name not in {each["name"] for each in inspect(self._engine).get_columns(table.name)}:
                            raise

    def _unavailable(self, error: SQLAlchemyError) -> StoreUnavailable:
        reason = str(error).splitlines()[0]
        return StoreUnavailable(f"event database {self.location} cannot be used: {reason}", "events")


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Sync before each acknowledgement, wait for other writers, and overwrite what is deleted."""
    for pragma in ("synchronous=FULL", "busy_timeout=30000", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")
