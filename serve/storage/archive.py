"""Archive: old rows that only trainings read, in Parquet files instead of the database.

    STORE/history/
      events-0123456789abcdef.parquet   impressions that a shop sent
      answers-0123456789abcdef.parquet  rows of the impression log
      unknown/                          files that this database did not write, see serve.storage.unknown_files

`vetrina compact` moves the rows. Other events stay in the database, because responses depend on them. The database
names the files that count, so that a kill at any instant leaves each row in one place. It also names withdrawn files,
which do not count. A new file starts as withdrawn; one transaction makes it count and deletes its rows from the
database. A file that retention deletes is withdrawn first. So `tidy` deletes only files that this database wrote. The
database also keeps a hash of the id of each archived event, to recognize an event that is sent again.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import BigInteger, Column, Connection, Float, LargeBinary, Table, Text, func, select

from embed.durable import sync, write_file
from serve.core.errors import StoreUnavailable
from serve.storage.database import METADATA, SEQUENCE, Database
from serve.storage.unknown_files import UnknownFiles, parquet_bytes, user_rows

MAX_ROWS = 100_000  # of a file
MAX_PARAMETERS = 10_000  # of a statement
STALE_SECONDS = 3600.0  # age from which a temporary file is no longer being written
_PARTS = Table(
    "archive_parts",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("last_time", Float, nullable=False),
)
_WITHDRAWN = Table("archive_withdrawn", METADATA, Column("name", Text, primary_key=True))
_EVENT_HASHES = Table("archived_events", METADATA, Column("hash", SEQUENCE, primary_key=True, autoincrement=False))
_TEMPORARY = re.compile(r"\.(.+)-[0-9a-f]{8}")  # see embed.durable.atomic_path


class _RowsErased(Exception):
    """An erasure deleted rows from the database while a file with them was written."""


class Archive:
    """The files of a database. Safe in several threads and processes, except `move`, which one job calls at a time.

    A file is of kind "events" or "answers", by the table that its rows come from.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def file_names(self) -> set[str]:
        """Return the names of the files that count."""
        return {name for (name,) in self._database.rows(select(_PARTS.c.name))}

    def last_sequence(self, kind: str) -> int:
        """Return the greatest sequence number of a row of a kind, 0 without rows."""
        query = select(func.coalesce(func.max(_PARTS.c.last_sequence), 0)).where(_PARTS.c.kind == kind)
        return int(self._database.rows(query)[0][0])

    def tables(self, kind: str, after: int, until: int | None = None, since: float = 0.0) -> Iterator[pa.Table]:
        """Yield the rows of a kind, file by file.

        Args:
            kind: "events" or "answers".
            after: only rows with greater sequence numbers.
            until: only rows up to this sequence number.
            since: only rows from this time on, in epoch seconds.
        """
        query = select(_PARTS.c.name).where(_PARTS.c.kind == kind, _PARTS.c.last_sequence > after)
        for (name,) in self._database.rows(query.where(_PARTS.c.last_time >= since).order_by(_PARTS.c.last_sequence)):
            table = self._read(name)
            mask = pc.and_(pc.greater(table["sequence"], after), pc.greater_equal(table["timestamp"], since))
            if until is not None:
                mask = pc.and_(mask, pc.less_equal(table["sequence"], until))
            yield table.filter(mask)

    def archived_ids(self, event_ids: Sequence[str]) -> set[str]:
        """Return those of some event ids that are in the files."""
        by_hash = {_hash(event_id): event_id for event_id in event_ids}
        archived: set[str] = set()
        for hashes in _chunks(by_hash):
            rows = self._database.rows(select(_EVENT_HASHES.c.hash).where(_EVENT_HASHES.c.hash.in_(hashes)))
            archived |= {by_hash[hash_] for (hash_,) in rows}
        return archived

    def users(self) -> set[str]:
        """Return the ids of all users in the files that count."""
        users: set[str] = set()
        for name in self.file_names():
            users |= set(pc.unique(self._read(name, ["user_id"])["user_id"]).to_pylist()) - {None}
        return users

    def erase(self, user_id: str, until: float | None = None) -> dict[str, int]:
        """Rewrite the files without the rows of a user, optionally only those up to a time (epoch seconds).

        Returns the number of removed rows by kind. Unknown files are rewritten too.
        """
        removed = {"events": 0, "answers": 0}
        for name, kind in self._database.rows(select(_PARTS.c.name, _PARTS.c.kind)):
            users = self._read(name, ["user_id", "timestamp"])
            if not pc.any(user_rows(users, [user_id], until)).as_py():
                continue
            table = self._read(name)
            own = user_rows(table, [user_id], until)
            removed[kind] += pc.sum(own).as_py()
            if kind == "events":  # first: after a kill the rows in the file still tell which hashes to delete
                with self._database.transaction() as connection:
                    self._delete_hashes(connection, table.filter(own)["event_id"].to_pylist())
            self._write(table.filter(pc.invert(own)), name)
        for kind, rows in self._unknown.erase(user_id, until).items():
            removed[kind] += rows
        return removed

    def move(self, kind: str, table: Table, where: Any) -> int:
        """Move rows of a database table into a new file, at most MAX_ROWS, and return how many.

        Args:
            kind: "events" or "answers".
            table: a table with the columns `sequence` and `timestamp`.
            where: the condition that selects the rows.
        """
        while rows := self._database.rows(select(*table.c).where(where).order_by(table.c.sequence).limit(MAX_ROWS)):
            columns = zip(table.c, zip(*rows, strict=True), strict=True)
            arrow = pa.table({column.name: pa.array(values, _type(column)) for column, values in columns})
            name = f"{kind}-{secrets.token_hex(8)}.parquet"
            with self._database.transaction() as connection:
                connection.execute(_WITHDRAWN.insert(), {"name": name})
            self._folder.mkdir(exist_ok=True)
            self._write(arrow, name)
            try:
                self._replace_rows(kind, table, arrow, name)
            except _RowsErased:  # the file still holds them: delete it and read again
                (self._folder / name).unlink()
                sync(self._folder)
            else:
                return len(rows)
        return 0

    def _replace_rows(self, kind: str, table: Table, arrow: pa.Table, name: str) -> None:
        """Make a new file count instead of its rows in the database.

        Args:
            kind: "events" or "answers".
            table: the table that the rows come from.
            arrow: the rows of the file.
            name: the name of the file.

        Raises:
            _RowsErased: the database no longer has all the rows; nothing has changed.
        """
        sequences = arrow["sequence"].to_pylist()
        deleted = 0
        with self._database.transaction() as connection:
            connection.execute(
                _PARTS.insert(),
                {
                    "name": name,
                    "kind": kind,
                    "last_sequence": max(sequences),
                    "last_time": pc.max(arrow["timestamp"]).as_py(),
                },
            )
            connection.execute(_WITHDRAWN.delete().where(_WITHDRAWN.c.name == name))
            if kind == "events":
                self._add_hashes(connection, arrow["event_id"].to_pylist())
            for chunk in _chunks(sequences):  # not by `where`: rows that arrived since are not in the file
                deleted += connection.execute(table.delete().where(table.c.sequence.in_(chunk))).rowcount
            if deleted < len(sequences):
                raise _RowsErased

    def delete_before(self, before: float) -> int:
        """Delete the files in which all rows are older than a time (epoch seconds), and return how many rows."""
        deleted = 0
        for name, kind in self._database.rows(select(_PARTS.c.name, _PARTS.c.kind).where(_PARTS.c.last_time < before)):
            table = self._read(name, ["sequence"] if kind == "answers" else ["event_id"])
            deleted += len(table)
            with self._database.transaction() as connection:
                connection.execute(_PARTS.delete().where(_PARTS.c.name == name))
                connection.execute(_WITHDRAWN.insert(), {"name": name})
                if kind == "events":
                    self._delete_hashes(connection, table["event_id"].to_pylist())
        self.tidy()
        return deleted + self._unknown.delete_before(before)

    def tidy(self) -> list[str]:
        """Delete the files that are withdrawn, move unknown ones aside, and return the names of the latter."""
        unknown: list[str] = []
        if not self._folder.is_dir():
            return unknown
        withdrawn = [name for (name,) in self._database.rows(select(_WITHDRAWN.c.name))]
        names = self.file_names()
        for path in sorted(self._folder.iterdir()):
            if path.name in names or not path.is_file():
                continue
            temporary = _TEMPORARY.fullmatch(path.name)
            name = temporary[1] if temporary else path.name
            if name in withdrawn:
                path.unlink()
            elif name not in names:
                unknown.append(path.name)
                self._unknown.add(path)
            elif path.stat().st_mtime < time.time() - STALE_SECONDS:  # an erasure was killed while it rewrote the file
                path.unlink()
        sync(self._folder)
        with self._database.transaction() as connection:
            for chunk in _chunks(withdrawn):
                connection.execute(_WITHDRAWN.delete().where(_WITHDRAWN.c.name.in_(chunk)))
        return unknown

    @property
    def _folder(self) -> Path:
        if self._database.history is None:
            raise StoreUnavailable("this database was opened without a store: it has no history folder", "history")
        return self._database.history

    @property
    def _unknown(self) -> UnknownFiles:
        return UnknownFiles(self._database)

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        path = self._folder / name
        try:
            return pq.read_table(path, columns=columns, memory_map=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreUnavailable(
                f"{path} cannot be read ({str(error).splitlines()[0]}): it holds rows that vetrina compact moved out "
                "of the database; restore it from a backup, or use the machine on which vetrina compact ran",
                name,
            ) from error

    def _write(self, table: pa.Table, name: str) -> None:
        write_file(self._folder / name, parquet_bytes(table))

    def _add_hashes(self, connection: Connection, event_ids: Sequence[str]) -> None:
        statement = self._database.dialect.insert(_EVENT_HASHES).on_conflict_do_nothing(index_elements=["hash"])
        for chunk in _chunks(event_ids):
            connection.execute(statement, [{"hash": _hash(event_id)} for event_id in chunk])

    def _delete_hashes(self, connection: Connection, event_ids: Sequence[str]) -> None:
        for chunk in _chunks(event_ids):
            connection.execute(_EVENT_HASHES.delete().where(_EVENT_HASHES.c.hash.in_(map(_hash, chunk))))


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    items = list(values)
    for start in range(0, len(items), MAX_PARAMETERS):
        yield items[start : start + MAX_PARAMETERS]


def _hash(event_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest(), "big", signed=True)


def _type(column: Any) -> pa.DataType:
    if isinstance(column.type, Float):
        return pa.float64()
    if isinstance(column.type, LargeBinary):
        return pa.binary()
    return pa.string() if isinstance(column.type, Text) else pa.int64()
