"""Campaign contacts: which users a campaign reached and when, which frequency caps count."""

import time
from collections.abc import Sequence

from sqlalchemy import Column, Connection, Float, Index, Table, Text, func, select

from serve.storage.database import METADATA, SEQUENCE, Database

_CONTACTS = Table(
    "contacts",
    METADATA,
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=True),
    Column("user_id", Text, nullable=False),
    Column("campaign", Text, nullable=False),
    Column("timestamp", Float, nullable=False),
    Index("contacts_of_user", "user_id", "timestamp"),
    Index("contacts_by_time", "timestamp"),
)


class CampaignContacts:
    """The contacts in a database; safe in several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, campaign: str, user_ids: Sequence[str], now: float | None = None) -> None:
        """Record that a campaign reached users, on disk when this returns; `now` is in epoch seconds."""
        if not user_ids:
            return
        timestamp = time.time() if now is None else now
        rows = [
            {"user_id": self._database.stored_user_id(user_id), "campaign": campaign, "timestamp": timestamp}
            for user_id in user_ids
        ]
        with self._database.transaction() as connection:
            connection.execute(_CONTACTS.insert(), rows)

    def reached(self, times: int, since: float) -> set[str]:
        """Return the users whom campaigns reached at least `times` times since a time (epoch seconds)."""
        query = select(_CONTACTS.c.user_id).where(_CONTACTS.c.timestamp >= since).group_by(_CONTACTS.c.user_id)
        return {user_id for (user_id,) in self._database.rows(query.having(func.count() >= times))}

    def users(self) -> set[str]:
        """Return the ids of all users with contacts."""
        return {user_id for (user_id,) in self._database.rows(select(_CONTACTS.c.user_id).distinct())}

    def erase(self, connection: Connection, user_id: str, until: float | None = None) -> int:
        """Delete the contacts of a user within a transaction, optionally only those up to a time; return how many."""
        statement = _CONTACTS.delete().where(_CONTACTS.c.user_id == user_id)
        if until is not None:
            statement = statement.where(_CONTACTS.c.timestamp <= until)
        return connection.execute(statement).rowcount
