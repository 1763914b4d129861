"""Statistics of the event log: queries, active users, and events by hour."""

from sqlalchemy import Integer, cast, func, select
from sqlalchemy.dialects import sqlite

from serve.storage.database import Database
from serve.storage.event_log import EVENTS, EventLog
from serve.storage.quarantine import quarantined_users

MAX_RECENT_EVENTS = 20_000  # by which active users are found
MAX_COUNTED_EVENTS = 500_000
MIN_USERS = 3  # of a query that is listed


class EventStatistics:
    """Statistics of the events in a database; safe in several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def query_interactions(self, limit: int) -> list[tuple[str, str]]:
        """Return pairs of a query and an item that was clicked, added to a cart or bought after it.

        Those of the most users come first. Users in quarantine do not count.
        """
        query = (
            select(EVENTS.c.query, EVENTS.c.item_id)
            .where(
                EVENTS.c.query.is_not(None),
                EVENTS.c.type.in_(("click", "cart", "purchase")),
                EVENTS.c.user_id.not_in(quarantined_users()),
            )
            .group_by(EVENTS.c.query, EVENTS.c.item_id)
            .order_by(func.count(EVENTS.c.user_id.distinct()).desc(), EVENTS.c.query, EVENTS.c.item_id)
        )
        return [(text, item_id) for text, item_id in self._database.rows(query.limit(limit))]

    def popular_queries(self, limit: int) -> list[tuple[str, int]]:
        """Return queries of at least MIN_USERS users with the number of users; rarer ones could identify a user."""
        users = func.count(EVENTS.c.user_id.distinct())
        query = (
            select(EVENTS.c.query, users)
            .where(EVENTS.c.query.is_not(None), EVENTS.c.user_id.not_in(quarantined_users()))
            .group_by(EVENTS.c.query)
            .having(users >= MIN_USERS)
            .order_by(users.desc(), EVENTS.c.query)
        )
        return [(text, count) for text, count in self._database.rows(query.limit(limit))]

    def item_users(self, item_id: str) -> set[str]:
        """Return the users who have events of any type but impressions with an item."""
        query = select(EVENTS.c.user_id).where(EVENTS.c.item_id == item_id, EVENTS.c.type != "impression").distinct()
        return {user_id for (user_id,) in self._database.rows(query)}

    def active_users(self, limit: int) -> list[tuple[str, int, float]]:
        """Return the users of the last MAX_RECENT_EVENTS events, the most recent first.

        Each with the number of those events, and the time of the last one in epoch seconds.
        """
        query = (
            select(EVENTS.c.user_id, func.count(), func.max(EVENTS.c.timestamp))
            .where(EVENTS.c.sequence > EventLog.from_database(self._database).last_sequence() - MAX_RECENT_EVENTS)
            .group_by(EVENTS.c.user_id)
            .order_by(func.max(EVENTS.c.sequence).desc())
        )
        return [(user_id, count, last) for user_id, count, last in self._database.rows(query.limit(limit))]

    def hourly_counts(self, since: float) -> list[tuple[int, str, int]]:
        """Return hour (since 1970), event type and number of events, from a time on (epoch seconds).

        Only the last MAX_COUNTED_EVENTS events are counted.
        """
        hours = EVENTS.c.timestamp / 3600
        # SQLite's cast truncates, PostgreSQL's rounds.
        hour = cast(hours if self._database.dialect is sqlite else func.floor(hours), Integer)
        last = EventLog.from_database(self._database).last_sequence()
        query = (
            select(hour, EVENTS.c.type, func.count())
            .where(EVENTS.c.sequence > last - MAX_COUNTED_EVENTS, EVENTS.c.timestamp >= since)
            .group_by(hour, EVENTS.c.type)
            .order_by(hour, EVENTS.c.type)
        )
        return [(int(at), type_, count) for at, type_, count in self._database.rows(query)]
