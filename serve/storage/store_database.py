"""Opens the database of a store, and refuses one that belongs to another store.

A store and its database carry one random id: the file STORE/database-id, and the row of the table `store_id`. Both are
written when the two are first used together and the database has rows, the row first. Whoever opens the database of a
store calls `open_database`, which checks the ids before it changes the database:

| store       | database            | result                                                               |
|-------------|---------------------|----------------------------------------------------------------------|
| has an id   | has the same id     | opened                                                               |
| has an id   | has another id      | refused                                                              |
| has an id   | has no id           | refused, with or without rows                                        |
| has no id   | has an id           | bound, unless the store has history files and the database names none|
| has no id   | has rows, no id     | bound, unless the store has history files and the database names none|
| has no id   | has no rows, no id  | opened; bound once something is written, or at the next open that    |
|             |                     | finds rows                                                           |

An empty database is not bound, because a command without VETRINA_EVENTS_URL opens an empty SQLite file; the store would
then refuse its real database.

A database without an id is refused even if it has rows: it may be the SQLite file that a store used before `events_url`
was set. Where it is the store's own after all (an older backup, or a new database on purpose), the error says which
file to remove; the next use then binds the two by the last rule. That rule also covers stores of version 0.1, which
have no id, a kill between the two writes, and several machines that share one PostgreSQL, of which only one compacts.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Column, Integer, Table, Text, literal_column, select, table

from embed.durable import write_file
from serve.core.errors import StoreUnavailable, WrongDatabase
from serve.core.settings import Settings
from serve.storage.archive import Archive
from serve.storage.database import METADATA, USER_KEY_VARIABLE, Database

FILE = "database-id"
HISTORY = "history"
_DATA_TABLES = ("events", "answers", "preferences", "contacts", "quarantine", "archive_parts")
_STORE_ID = Table(
    "store_id",
    METADATA,
    Column("row", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("id", Text, nullable=False),
)


def open_database(settings: Settings) -> Database:
    """Open the database of a store: its own SQLite file, or the one that `events_url` names.

    User ids are hashed with the key of the environment variable VETRINA_USER_KEY, if it is set.

    Raises:
        WrongDatabase: the database belongs to another store.
        StoreUnavailable: the store or the database cannot be used.
    """
    with _usable(settings.store):
        settings.store.mkdir(parents=True, exist_ok=True)
    url = settings.events_url or f"sqlite:///{settings.store / 'events.sqlite'}"
    key = os.environ.get(USER_KEY_VARIABLE, "")
    database = Database(url, key, settings.store / HISTORY, create_tables=False)
    try:
        _bind_now_or_later(database, settings.store)
    except Exception:
        database.close()
        raise
    return database


def check_database(settings: Settings) -> None:
    """Raise WrongDatabase if the database belongs to another store.

    An unreachable database is no error here, because the service starts without it; neither is a missing one.
    """
    if is_bound(settings.store):
        try:
            open_database(settings).close()
        except WrongDatabase:
            raise
        except StoreUnavailable:
            return


def is_bound(store: Path) -> bool:
    """Whether a store has an id or a history, so that not every database fits it."""
    return (store / FILE).exists() or (store / HISTORY).exists()


def _bind_now_or_later(database: Database, store: Path) -> None:
    """Bind a store and a database; while the database is empty, try again after each write."""
    bound = False
    database.after_write = None  # binding writes too
    try:
        bound = _bind(database, store)
    finally:
        if not bound:
            database.after_write = lambda: _bind_now_or_later(database, store)


def _bind(database: Database, store: Path) -> bool:
    """Check that a store and a database belong together; give both one id if the store has none.

    Creates the tables that the database lacks. Returns whether both have an id now: not if the database is empty.
    """
    file = store / FILE
    database_id = _read_id(database)
    if file.exists():
        with _usable(file):
            store_id = file.read_text("utf-8").strip()
        if database_id != store_id:
            raise _mismatch(database, database_id, store, store_id)
        database.create_tables()
        return True
    files = {path.name for path in (store / HISTORY).glob("[!.]*.parquet")}
    known = Archive(database).file_names() if files and database.has_table("archive_parts") else set()
    if files and not files & known:
        raise WrongDatabase(
            f"{database.location} is not the database of store {store}: it names none of the {len(files)} files in "
            f"{store / HISTORY}; set events_url (VETRINA_EVENTS_URL) to the store's own database, or move "
            f"{store / HISTORY} away to continue without those files",
            "events_url",
        )
    database.create_tables()
    if not database_id:
        if not _has_rows(database):
            return False
        statement = database.dialect.insert(_STORE_ID).values(row=1, id=secrets.token_hex(16))
        with database.transaction() as connection:
            connection.execute(statement.on_conflict_do_nothing(index_elements=["row"]))
        database_id = _read_id(database)  # of another process if that was first
    with _usable(file):
        write_file(file, f"{database_id}\n".encode())
    return True


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Raise StoreUnavailable if the block cannot read or write a file or folder of the store."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"{path} cannot be read or written ({error.strerror}): check the permissions and the free space of the "
            "store",
            path.name,
        ) from error


def _has_rows(database: Database) -> bool:
    """Whether a database has data of users."""
    return any(
        database.has_table(name) and database.rows(select(literal_column("1")).select_from(table(name)).limit(1))
        for name in _DATA_TABLES
    )


def _read_id(database: Database) -> str:
    rows = database.rows(select(_STORE_ID.c.id)) if database.has_table(_STORE_ID.name) else []
    return str(rows[0][0]) if rows else ""


def _mismatch(database: Database, database_id: str, store: Path, store_id: str) -> WrongDatabase:
    other = f"has id {database_id}" if database_id else "has no id"
    fix = "set events_url (VETRINA_EVENTS_URL) to the store's own database"
    if not database_id:
        history = f" and move {store / HISTORY} away" if (store / HISTORY).exists() else ""
        fix += (
            f"; if {database.location} is a backup of version 0.1 of that database, remove {store / FILE}; to start "
            f"with a new database, remove {store / FILE}{history}"
        )
    return WrongDatabase(
        f"{database.location} is not the database of store {store}: the store has database id {store_id}, the database "
        f"{other}; {fix}",
        "events_url",
    )
