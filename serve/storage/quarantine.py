"""Quarantine: users whose events are stored but not learned from, such as bots."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Float, Table, Text, func, select

from serve.storage.database import METADATA, Database

_QUARANTINE = Table(
    "quarantine",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("since", Float, nullable=False),
    Column("released", Float),
)


@dataclass(frozen=True)
class QuarantinedUser:
    """A user who is or was in quarantine: the reason, and from when to when in epoch seconds; None is still there."""

    user_id: str
    reason: str
    since: float
    released: float | None


def quarantined_users() -> Any:
    """Return a subquery for the ids of the users who are in quarantine."""
    return select(_QUARANTINE.c.user_id).where(_QUARANTINE.c.released.is_(None))


class Quarantine:
    """The quarantine in a database; safe in several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, reasons: Mapping[str, str]) -> None:
        """Put users into quarantine, each with a reason; on disk when this returns.

        Users who are in quarantine already, or were released from it, stay as they are.
        """
        if not reasons:
            return
        statement = self._database.dialect.insert(_QUARANTINE).on_conflict_do_nothing(index_elements=["user_id"])
        rows = [{"user_id": user, "reason": reason, "since": time.time()} for user, reason in reasons.items()]
        with self._database.transaction() as connection:
            connection.execute(statement, rows)

    def release(self, user_id: str) -> bool:
        """Release a user for good; return whether the user was in quarantine."""
        own = _QUARANTINE.c.user_id == self._database.stored_user_id(user_id)
        with self._database.transaction() as connection:
            statement = _QUARANTINE.update().where(own, _QUARANTINE.c.released.is_(None))
            return connection.execute(statement.values(released=time.time())).rowcount > 0

    def entries(self) -> list[QuarantinedUser]:
        """Return all users who are or were in quarantine, the longest first."""
        query = select(_QUARANTINE).order_by(_QUARANTINE.c.since)
        return [QuarantinedUser(*row) for row in self._database.rows(query)]

    def count(self) -> int:
        """Return how many users are in quarantine."""
        return int(self._database.rows(select(func.count()).select_from(quarantined_users().subquery()))[0][0])

    def erase(self, connection: Connection, user_id: str, until: float | None = None) -> None:
        """Delete the entry of a user within a transaction, unless it began after a time (epoch seconds)."""
        statement = _QUARANTINE.delete().where(_QUARANTINE.c.user_id == user_id)
        if until is not None:
            statement = statement.where(_QUARANTINE.c.since <= until)
        connection.execute(statement)
