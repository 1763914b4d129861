"""Privacy of users: preferences that every response respects, and erasure of all data of a user.

An erasure is first written to STORE/erased.jsonl, as a hash of the user id and a time, and then carried out. If the
database knows fewer erasures than that file, because of a kill in between or because it comes from a backup, the
missing ones are replayed. So after a restore of the database keep `erased.jsonl`.
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path

import orjson
from sqlalchemy import Column, LargeBinary, Table, Text, func, select

from embed.durable import sync
from serve.core.settings import Settings
from serve.storage.archive import Archive
from serve.storage.campaign_contacts import CampaignContacts
from serve.storage.database import METADATA, Database
from serve.storage.event_log import EventLog
from serve.storage.impression_log import ImpressionLog
from serve.storage.preferences import Preferences
from serve.storage.quarantine import Quarantine
from serve.storage.store_database import is_bound, open_database
from serve.storage.unknown_files import UnknownFiles

FILE = "erased.jsonl"
_PREFERENCES = Table(
    "preferences", METADATA, Column("user_id", Text, primary_key=True), Column("body", LargeBinary, nullable=False)
)
_ERASURES = Table("erasures", METADATA, Column("line", Text, primary_key=True))


@dataclass(frozen=True)
class ErasureCounts:
    """How many rows an erasure removed."""

    events: int
    impressions: int
    preferences: int
    contacts: int


class UserPrivacy:
    """Preferences and erasure in the database of a store."""

    def __init__(self, database: Database, store: Path) -> None:
        self._database, self._file = database, store / FILE
        self._events, self._impressions = EventLog.from_database(database), ImpressionLog(database)
        self._contacts = CampaignContacts(database)

    def preferences(self, user_id: str, timeout_s: float | None = None) -> Preferences:
        """Return the preferences of a user, or the defaults; `timeout_s` as in Database.rows."""
        own = _PREFERENCES.c.user_id == self._database.stored_user_id(user_id)
        rows = self._database.rows(select(_PREFERENCES.c.body).where(own), timeout_s)
        return Preferences.model_validate_json(rows[0][0]) if rows else Preferences()

    def set_preferences(self, user_id: str, preferences: Preferences) -> None:
        """Replace the preferences of a user; on disk when this returns."""
        body, stored_id = preferences.model_dump_json().encode(), self._database.stored_user_id(user_id)
        statement = self._database.dialect.insert(_PREFERENCES).values(user_id=stored_id, body=body)
        statement = statement.on_conflict_do_update(index_elements=["user_id"], set_={"body": body})
        with self._database.transaction() as connection:
            connection.execute(statement)

    def opted_out_users(self) -> set[str]:
        """Return the users whom no campaign may reach."""
        return {
            user_id
            for user_id, body in self._database.rows(select(_PREFERENCES.c.user_id, _PREFERENCES.c.body))
            if b'"marketing":false' in body or b'"personal":false' in body
        }

    def erase(self, user_id: str) -> ErasureCounts:
        """Remove all data of a user until now; nothing is left on disk when this returns."""
        user_id = self._database.stored_user_id(user_id)
        line = orjson.dumps({"user": _hash(user_id), "at": time.time()}).decode()
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync(self._file.parent)
        return self._remove(user_id, line)

    def count_erasures(self) -> int:
        """Return how many erasures the database knows."""
        return int(self._database.rows(select(func.count()).select_from(_ERASURES))[0][0])

    def replay(self) -> int:
        """Carry out the erasures that the database does not know; return how many rows that removed."""
        if not self._file.exists():
            return 0
        known = {line for (line,) in self._database.rows(select(_ERASURES.c.line))}
        missing = [line for line in self._file.read_text("utf-8").splitlines() if line.strip() and line not in known]
        if not missing:
            return 0
        lines_by_hash: dict[str, list[str]] = {}
        for line in missing:
            lines_by_hash.setdefault(orjson.loads(line)["user"], []).append(line)
        removed = 0
        for user_id in self._users():
            for line in lines_by_hash.pop(_hash(user_id), ()):
                counts = self._remove(user_id, line, until=float(orjson.loads(line)["at"]))
                removed += sum(astuple(counts))
        if lines_by_hash:  # users without any data here: an erasure may have been killed before it purged
            self._database.purge()
            self._record([line for lines in lines_by_hash.values() for line in lines])
        return removed

    def _users(self) -> Iterator[str]:
        """Yield the ids of all users with any data, some more than once."""
        preferences = (user_id for (user_id,) in self._database.rows(select(_PREFERENCES.c.user_id)))
        quarantined = (user.user_id for user in Quarantine(self._database).entries())
        unknown = UnknownFiles(self._database).users()
        return chain(
            self._events.users(), self._impressions.users(), self._contacts.users(), preferences, quarantined, unknown
        )

    def _remove(self, user_id: str, line: str, until: float | None = None) -> ErasureCounts:
        """Remove the data of a user, up to a time if there is one, and record that in the database.

        The database comes before the files: rows that a compaction moves meanwhile are in a file by then. The record
        comes last, so that an erasure that was killed is replayed.
        """
        with self._database.transaction() as connection:
            events = self._events.erase(connection, user_id, until)
            impressions = self._impressions.erase(connection, user_id, until)
            contacts = self._contacts.erase(connection, user_id, until)
            deleted = connection.execute(_PREFERENCES.delete().where(_PREFERENCES.c.user_id == user_id))
        archived = Archive(self._database).erase(user_id, until)
        self._database.purge()
        self._record([line])
        return ErasureCounts(events + archived["events"], impressions + archived["answers"], deleted.rowcount, contacts)

    def _record(self, lines: Sequence[str]) -> None:
        """Record in the database that erasures were carried out; another process may have recorded them."""
        statement = self._database.dialect.insert(_ERASURES).on_conflict_do_nothing(index_elements=["line"])
        with self._database.transaction() as connection:
            connection.execute(statement, [{"line": line} for line in lines])


def replay_erasures(settings: Settings) -> int:
    """Carry out the erasures that a store's database does not know; return how many rows that removed.

    Raises:
        WrongDatabase: the database belongs to another store.
    """
    if not (settings.store / FILE).exists() and not is_bound(settings.store):
        return 0
    database = open_database(settings)
    try:
        return UserPrivacy(database, settings.store).replay()
    finally:
        database.close()


def _hash(user_id: str) -> str:
    return hashlib.blake2b(user_id.encode(), digest_size=16, person=b"vetrina erased").hexdigest()
