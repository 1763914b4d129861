"""Unknown history files: what lies in STORE/history although the database of the store did not write it.

Such a file may come from another database or from a restored backup. `vetrina compact` moves it to
STORE/history/unknown and reports it; nothing reads it from then on. It may hold personal data, so erasure and
retention reach it there.
"""

import logging
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from embed.durable import sync, write_file
from serve.storage.database import Database

FOLDER = "unknown"
_log = logging.getLogger(__name__)


class UnknownFiles:
    """The unknown files in the history folder of a database; a database without a store has none.

    Their user ids may be in clear although the database stores hashes, so they are compared as stored ids.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._folder = database.history and database.history / FOLDER

    def add(self, path: Path) -> None:
        """Move a file of the history folder here; it never replaces another one."""
        if self._folder is None:
            raise ValueError("a database without a store has no history folder")
        self._folder.mkdir(exist_ok=True)
        target = self._folder / path.name
        if target.exists():
            target = self._folder / f"{secrets.token_hex(4)}-{path.name}"
        path.rename(target)
        sync(self._folder)

    def users(self) -> set[str]:
        """Return the stored ids of all users in the files."""
        return {self._database.stored_user_id(user_id) for _, table in self._tables() for user_id in _user_ids(table)}

    def erase(self, user_id: str, until: float | None = None) -> dict[str, int]:
        """Rewrite the files without the rows of a stored user id, optionally only those up to a time (epoch seconds).

        Returns the number of removed rows by kind, "events" or "answers".
        """
        removed = {"events": 0, "answers": 0}
        for path, table in self._tables():
            user_ids = [each for each in _user_ids(table) if self._database.stored_user_id(each) == user_id]
            own = user_rows(table, user_ids, until)
            if pc.any(own).as_py():
                removed["events" if "event_id" in table.column_names else "answers"] += pc.sum(own).as_py()
                write_file(path, parquet_bytes(table.filter(pc.invert(own))))
        return removed

    def delete_before(self, before: float) -> int:
        """Delete the files in which all rows are older than a time (epoch seconds), and return how many rows.

        The age of a file that is not a history file is the age of the file.
        """
        deleted = 0
        readable: set[Path] = set()
        for path, table in self._tables():
            readable.add(path)
            latest = pc.max(table["timestamp"]).as_py()
            if latest is None or latest < before:
                deleted += len(table)
                path.unlink()
        for path in set(self._paths()) - readable:
            if path.stat().st_mtime < before:
                path.unlink()
        return deleted

    def _paths(self) -> list[Path]:
        return [] if self._folder is None else sorted(path for path in self._folder.glob("*") if path.is_file())

    def _tables(self) -> Iterator[tuple[Path, pa.Table]]:
        """Yield the files that have rows of users."""
        for path in self._paths():
            try:
                table = pq.read_table(path, memory_map=False)
                columns = {field.name: field.type for field in table.schema}
            except (OSError, pa.ArrowException):
                columns = {}
            if columns.get("user_id") == pa.string() and columns.get("timestamp") == pa.float64():
                yield path, table
            else:
                _log.warning("%s is not a history file: erasures cannot search it; delete it if it is not needed", path)


def user_rows(table: pa.Table, user_ids: Sequence[str], until: float | None) -> Any:
    """Return a mask of the rows of some user ids, optionally only those up to a time (epoch seconds)."""
    own = pc.is_in(table["user_id"], pa.array(user_ids, pa.string()))
    return own if until is None else pc.and_(own, pc.fill_null(pc.less_equal(table["timestamp"], until), True))


def _user_ids(table: pa.Table) -> set[str]:
    return set(pc.unique(table["user_id"]).to_pylist()) - {None}


def parquet_bytes(table: pa.Table) -> bytes:
    """Encode a table as a compressed Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data
