"""The shopper's rights: preferences that every answer keeps to, and erasure that reaches all that is kept.

An erasure is first written to STORE/erased.jsonl, as a hash of the user id and a time, and then done. Where the
database knows of fewer erasures than that file, because it was killed in between or comes from a backup, those are done
again. So restore `events.sqlite` from a backup and keep `erased.jsonl`.
"""

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import orjson
from sqlalchemy import Column, LargeBinary, Table, Text, func, select

from embed.durable import sync
from serve.core.settings import Settings
from serve.storage.archive import Archive
from serve.storage.campaign_contacts import CampaignContacts
from serve.storage.database import METADATA, Database, open_database
from serve.storage.event_log import EventLog
from serve.storage.impression_log import ImpressionLog
from serve.storage.preferences import Preferences

FILE = "erased.jsonl"
_PREFERENCES = Table(
    "preferences", METADATA, Column("user_id", Text, primary_key=True), Column("body", LargeBinary, nullable=False)
)
_ERASURES = Table("erasures", METADATA, Column("line", Text, primary_key=True))


@dataclass(frozen=True)
class ErasureCounts:
    """How many rows were removed."""

    events: int
    answers: int
    preferences: int
    contacts: int


class UserPrivacy:
    """Preferences and erasure over the database of a store."""

    def __init__(self, database: Database, store: Path) -> None:
        self._database, self._file = database, store / FILE
        self._events, self._answers = EventLog.of(database), ImpressionLog(database)

    def preferences(self, user_id: str, patience: float | None = None) -> Preferences:
        """What a user set, or the defaults; `patience` as in Database.rows."""
        own = _PREFERENCES.c.user_id == self._database.known_as(user_id)
        rows = self._database.rows(select(_PREFERENCES.c.body).where(own), patience)
        return Preferences.model_validate_json(rows[0][0]) if rows else Preferences()

    def prefer(self, user_id: str, preferences: Preferences) -> None:
        """Keep what a user set, whole; on disk when this returns."""
        body, known_as = preferences.model_dump_json().encode(), self._database.known_as(user_id)
        statement = self._database.dialect.insert(_PREFERENCES).values(user_id=known_as, body=body)
        statement = statement.on_conflict_do_update(index_elements=["user_id"], set_={"body": body})
        with self._database.writing() as connection:
            connection.execute(statement)

    def opted_out(self) -> set[str]:
        """Who is never to be reached by a campaign."""
        return {
            user_id
            for user_id, body in self._database.rows(select(_PREFERENCES.c.user_id, _PREFERENCES.c.body))
            if b'"marketing":false' in body or b'"personal":false' in body
        }

    def erase(self, user_id: str) -> ErasureCounts:
        """Remove all that is kept of a user until now; nothing is left on disk when this returns."""
        user_id = self._database.known_as(user_id)
        line = orjson.dumps({"user": _hash(user_id), "at": time.time()}).decode()
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync(self._file.parent)
        return self._remove(user_id, line)

    def erasures(self) -> int:
        """How many erasures the database knows of."""
        return int(self._database.rows(select(func.count()).select_from(_ERASURES))[0][0])

    def catch_up(self) -> int:
        """Do the erasures that the database does not know of; how many rows that removed."""
        if not self._file.exists():
            return 0
        known = {line for (line,) in self._database.rows(select(_ERASURES.c.line))}
        missing = [line for line in self._file.read_text("utf-8").splitlines() if line.strip() and line not in known]
        if not missing:
            return 0
        wanted: dict[str, list[str]] = {}
        for line in missing:
            wanted.setdefault(orjson.loads(line)["user"], []).append(line)
        removed = 0
        for user_id in self._events.users():
            for line in wanted.pop(_hash(user_id), ()):
                found = self._remove(user_id, line, until=float(orjson.loads(line)["at"]))
                removed += found.events + found.answers + found.preferences + found.contacts
        with self._database.writing() as connection:  # of whom nothing is here
            for lines in wanted.values():
                connection.execute(_ERASURES.insert(), [{"line": line} for line in lines])
        return removed

    def _remove(self, user_id: str, line: str, until: float | None = None) -> ErasureCounts:
        old_events, old_impressions = Archive(self._database).erase(user_id, until)
        with self._database.writing() as connection:
            events = old_events + self._events.erase(connection, user_id, until)
            answers = old_impressions + self._answers.erase(connection, user_id, until)
            contacts = CampaignContacts(self._database).erase(connection, user_id, until)
            deleted = connection.execute(_PREFERENCES.delete().where(_PREFERENCES.c.user_id == user_id))
            connection.execute(_ERASURES.insert(), {"line": line})
        self._database.wipe()
        return ErasureCounts(events, answers, deleted.rowcount, contacts)


def replay_erasures(settings: Settings) -> int:
    """Do the erasures that a store's database does not know of; how many rows that removed."""
    if not (settings.store / FILE).exists():
        return 0
    database = open_database(settings)
    try:
        return UserPrivacy(database, settings.store).catch_up()
    finally:
        database.close()


def _hash(user_id: str) -> str:
    return hashlib.blake2b(user_id.encode(), digest_size=16, person=b"vetrina erased").hexdigest()
