"""What is old and only trainings read: moved from the database into Parquet files, by `vetrina compact`.

    STORE/history/
      events-0123456789abcdef.parquet   impressions that a shop sent
      answers-0123456789abcdef.parquet  answers

What shoppers did stays in the database, as answers go by it. The database names the files that count, so that a kill
at any instant leaves each row in one place. It also keeps a hash of the id of each event in them, so that an event that
is sent again is known again.
"""

import hashlib
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sqlalchemy import BigInteger, Column, Connection, Float, LargeBinary, Table, Text, func, select

from embed.durable import write_file
from serve.core.errors import StoreUnavailable
from serve.storage.database import METADATA, SEQUENCE, Database

ROWS = 100_000  # of a file
SOME = 10_000  # ids of one statement
_PARTS = Table(
    "archive_parts",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("last_time", Float, nullable=False),
)
_PACKED = Table("archived_events", METADATA, Column("hash", SEQUENCE, primary_key=True, autoincrement=False))


class Archive:
    """The files of a database; safe in several threads and processes, but for `move`, which one job calls at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last(self, kind: str) -> int:
        """The greatest number of a row of a kind, 0 for none."""
        query = select(func.coalesce(func.max(_PARTS.c.last_sequence), 0)).where(_PARTS.c.kind == kind)
        return int(self._database.rows(query)[0][0])

    def tables(self, kind: str, after: int, until: int | None = None, since: float = 0.0) -> Iterator[pa.Table]:
        """The rows of a kind after a number, up to one and since a moment, file by file."""
        query = select(_PARTS.c.name).where(_PARTS.c.kind == kind, _PARTS.c.last_sequence > after)
        for (name,) in self._database.rows(query.where(_PARTS.c.last_time >= since).order_by(_PARTS.c.last_sequence)):
            table = self._read(name)
            wanted = pc.and_(pc.greater(table["sequence"], after), pc.greater_equal(table["timestamp"], since))
            if until is not None:
                wanted = pc.and_(wanted, pc.less_equal(table["sequence"], until))
            yield table.filter(wanted)

    def known(self, event_ids: Sequence[str]) -> set[str]:
        """Those of some event ids that are in the files."""
        by_hash = {_hash(event_id): event_id for event_id in event_ids}
        found: set[str] = set()
        for some in _some(by_hash):
            rows = self._database.rows(select(_PACKED.c.hash).where(_PACKED.c.hash.in_(some)))
            found |= {by_hash[number] for (number,) in rows}
        return found

    def users(self) -> set[str]:
        """Everybody who is in the files."""
        found: set[str] = set()
        for (name,) in self._database.rows(select(_PARTS.c.name)):
            found |= set(pc.unique(self._read(name, ["user_id"])["user_id"]).to_pylist()) - {None}
        return found

    def erase(self, user_id: str, until: float | None = None) -> tuple[int, int]:
        """Write the files without the rows of a user, or those up to a moment; how many events and answers went."""
        deleted = {"events": 0, "answers": 0}
        for name, kind in self._database.rows(select(_PARTS.c.name, _PARTS.c.kind)):
            seen = self._read(name, ["user_id", "timestamp"])
            if not pc.any(_of(seen, user_id, until)).as_py():
                continue
            table = self._read(name)
            own = _of(table, user_id, until)
            left = table.filter(pc.invert(own))
            deleted[kind] += len(table) - len(left)
            if kind == "events":  # first, as after a kill the rows in the file still tell which
                with self._database.writing() as connection:
                    hashes = [_hash(event_id) for event_id in table.filter(own)["event_id"].to_pylist()]
                    for some in _some(hashes):
                        connection.execute(_PACKED.delete().where(_PACKED.c.hash.in_(some)))
            self._write(left, name)
        return deleted["events"], deleted["answers"]

    def move(self, kind: str, table: Table, where: Any) -> int:
        """Move up to ROWS rows of a table of the database, which have a sequence and a timestamp, into a file."""
        rows = self._database.rows(select(*table.c).where(where).order_by(table.c.sequence).limit(ROWS))
        if not rows:
            return 0
        columns = zip(table.c, zip(*rows, strict=True), strict=True)
        arrow = pa.table({column.name: pa.array(values, _type(column)) for column, values in columns})
        name = f"{kind}-{secrets.token_hex(8)}.parquet"
        self._folder.mkdir(exist_ok=True)
        self._write(arrow, name)
        numbers = arrow["sequence"].to_pylist()
        with self._database.writing() as connection:
            last = pc.max(arrow["timestamp"]).as_py()
            connection.execute(
                _PARTS.insert(), {"name": name, "kind": kind, "last_sequence": max(numbers), "last_time": last}
            )
            if kind == "events":
                self._remember(connection, arrow["event_id"].to_pylist())
            for some in _some(numbers):  # by number: what came meanwhile is not in the file
                connection.execute(table.delete().where(table.c.sequence.in_(some)))
        return len(rows)

    def forget(self, before: float) -> int:
        """Delete the files of which all is older than a moment (epoch seconds); how many rows that were."""
        rows = 0
        for name, kind in self._database.rows(select(_PARTS.c.name, _PARTS.c.kind).where(_PARTS.c.last_time < before)):
            table = self._read(name, ["sequence"] if kind == "answers" else ["event_id"])
            rows += len(table)
            with self._database.writing() as connection:
                connection.execute(_PARTS.delete().where(_PARTS.c.name == name))
                for some in _some(table["event_id"].to_pylist() if kind == "events" else ()):
                    connection.execute(_PACKED.delete().where(_PACKED.c.hash.in_(map(_hash, some))))
        self.tidy()
        return rows

    def tidy(self) -> None:
        """Remove the files that do not count: what a killed job left."""
        named = {name for (name,) in self._database.rows(select(_PARTS.c.name))}
        for path in self._folder.glob("*") if self._folder.is_dir() else ():
            if path.name not in named:
                path.unlink()

    @property
    def _folder(self) -> Path:
        if self._database.history is None:
            raise StoreUnavailable("a database without a store has no history", "history")
        return self._database.history

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _read(self, name: str, columns: list[str] | None = None) -> pa.Table:
        try:
            return pq.read_table(self._path(name), columns=columns, memory_map=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreUnavailable(
                f"{self._path(name)} cannot be read ({str(error).splitlines()[0]}): it holds what was moved out of the "
                "database; restore it from a backup, or run this where vetrina compact was run",
                name,
            ) from error

    def _write(self, table: pa.Table, name: str) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        write_file(self._path(name), sink.getvalue())

    def _remember(self, connection: Connection, event_ids: Sequence[str]) -> None:
        statement = self._database.dialect.insert(_PACKED).on_conflict_do_nothing(index_elements=["hash"])
        for some in _some(event_ids):
            connection.execute(statement, [{"hash": _hash(event_id)} for event_id in some])


def _of(table: pa.Table, user_id: str, until: float | None) -> Any:
    own = pc.fill_null(pc.equal(table["user_id"], user_id), False)
    return own if until is None else pc.and_(own, pc.less_equal(table["timestamp"], until))


def _some(values: Iterable[Any]) -> Iterator[list[Any]]:
    listed = list(values)
    for start in range(0, len(listed), SOME):
        yield listed[start : start + SOME]


def _hash(event_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(event_id.encode(), digest_size=8).digest(), "big", signed=True)


def _type(column: Any) -> pa.DataType:
    if isinstance(column.type, Float):
        return pa.float64()
    if isinstance(column.type, LargeBinary):
        return pa.binary()
    return pa.string() if isinstance(column.type, Text) else pa.int64()
