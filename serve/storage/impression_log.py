"""The impression log: which items each response showed to which user, by which release, why, and with what probability.

A response is one row of the table `answers`. Events refer to it by `request_id`; an event whose request is not in the
log is attributed to no response.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc
from numpy.typing import NDArray
from sqlalchemy import Column, Connection, Float, Index, LargeBinary, Table, Text, func, or_, select

from embed.behaviour import Event, as_batch
from serve.storage.archive import Archive
from serve.storage.database import METADATA, SEQUENCE, Database
from serve.storage.event_log import EventLog
from serve.storage.quarantine import quarantined_users

PAGE_ROWS = 5_000
Floats = NDArray[np.float32]
_IMPRESSIONS = Table(
    "answers",
    METADATA,
    Column("sequence", SEQUENCE, primary_key=True, autoincrement=True),
    Column("request_id", Text, nullable=False, unique=True),
    Column("user_id", Text),
    Column("timestamp", Float, nullable=False),
    Column("release", Text, nullable=False),
    Column("scorer", Text, nullable=False),
    Column("policy", Text, nullable=False),
    Column("items", LargeBinary, nullable=False),
    Column("scores", LargeBinary, nullable=False),
    Column("propensities", LargeBinary, nullable=False),
    Column("hidden", LargeBinary, nullable=False),
    Column("chances", LargeBinary, nullable=False),
    Index("answers_of_user", "user_id", "timestamp"),
    sqlite_autoincrement=True,  # the sequence number of a deleted row is never used again
)
_COLUMNS = [column for column in _IMPRESSIONS.c if column.name != "sequence"]


@dataclass(frozen=True)
class ShownItems:
    """The n items of a response in display order, and how they were scored and chosen.

    Attributes:
        items: item ids, the first position first.
        scorer: fingerprint of the scorer, empty if none ranked the items.
        policy: how the order was chosen, such as "best" or "plackett_luce".
        scores: the score of each item [n].
        propensities: the probability of each item at its position, given the items before it [n].
        hidden: the scorer's last hidden layer [n, hidden]; empty without a scorer.
        probabilities: the predicted probability of each head [n, heads]; empty without a scorer.
        features: the scorer's input [n, columns]; not logged.
    """

    items: Sequence[str]
    scorer: str
    policy: str
    scores: Floats
    propensities: Floats
    hidden: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    probabilities: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    features: Floats | None = None


@dataclass(frozen=True)
class ImpressionRecord:
    """A response: the user (None if anonymous), the time in epoch seconds, the release and the shown items."""

    request_id: str
    user_id: str | None
    timestamp: float
    release: str
    shown: ShownItems

    def events(self) -> list[Event]:
        """Return one impression event for each item."""
        return [
            Event(
                event_id=f"{self.request_id}/{position}",
                user_id=self.user_id or "",
                item_id=item_id,
                type="impression",
                timestamp=self.timestamp,
                request_id=self.request_id,
                position=position,
                value=None if np.isnan(propensity) else propensity,
            )
            for position, (item_id, propensity) in enumerate(
                zip(self.shown.items, self.shown.propensities.tolist(), strict=True)
            )
        ]


class ImpressionLog:
    """The responses in a database; safe in several threads and processes.

    Sequence numbers start at 1 and order the responses by arrival.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, records: Sequence[ImpressionRecord]) -> None:
        """Store responses, on disk when this returns; of several with one `request_id` the first is kept."""
        if not records:
            return
        statement = self._database.dialect.insert(_IMPRESSIONS).on_conflict_do_nothing(index_elements=["request_id"])
        with self._database.transaction() as connection:
            connection.execute(statement, [self._row(record) for record in records])

    def last_sequence(self) -> int:
        """Return the sequence number of the last response, 0 without responses."""
        last = int(self._database.rows(select(func.coalesce(func.max(_IMPRESSIONS.c.sequence), 0)))[0][0])
        return max(last, Archive(self._database).last_sequence("answers"))

    def batches(
        self, after: int = 0, since: float = 0.0, until: int | None = None, page_rows: int = PAGE_ROWS
    ) -> Iterator[list[tuple[int, ImpressionRecord]]]:
        """Yield responses with their sequence numbers in the order of arrival, those of archived files first.

        Responses to users in quarantine are left out.

        Args:
            after: only responses with greater sequence numbers.
            since: only responses from this time on, in epoch seconds.
            until: only responses up to this sequence number.
            page_rows: the maximum number of responses in a batch.
        """
        names = ["sequence", *(column.name for column in _COLUMNS)]
        excluded = {user_id for (user_id,) in self._database.rows(quarantined_users())}
        for table in Archive(self._database).tables("answers", after, until, since):
            for batch in table.to_batches(page_rows):
                archived = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
                yield [(sequence, _record(*values)) for sequence, *values in archived if values[1] not in excluded]
        while True:
            query = select(_IMPRESSIONS.c.sequence, *_COLUMNS).where(_IMPRESSIONS.c.sequence > after)
            if until is not None:
                query = query.where(_IMPRESSIONS.c.sequence <= until)
            allowed = or_(_IMPRESSIONS.c.user_id.is_(None), _IMPRESSIONS.c.user_id.not_in(quarantined_users()))
            query = query.where(allowed, _IMPRESSIONS.c.timestamp >= since)
            rows = self._database.rows(query.order_by(_IMPRESSIONS.c.sequence).limit(page_rows))
            if not rows:
                return
            after = rows[-1][0]
            yield [(sequence, _record(*values)) for sequence, *values in rows]

    def users(self) -> set[str]:
        """Return the ids of all users with responses in the database, archived files excepted."""
        query = select(_IMPRESSIONS.c.user_id).where(_IMPRESSIONS.c.user_id.is_not(None)).distinct()
        return {user_id for (user_id,) in self._database.rows(query)}

    def erase(self, connection: Connection, user_id: str, until: float | None = None) -> int:
        """Delete the responses to a user within a transaction, optionally only those up to a time; return how many."""
        statement = _IMPRESSIONS.delete().where(_IMPRESSIONS.c.user_id == user_id)
        if until is not None:
            statement = statement.where(_IMPRESSIONS.c.timestamp <= until)
        return connection.execute(statement).rowcount

    def archive_before(self, before: float) -> int:
        """Move responses from before a time (epoch seconds) into a file; return how many, 0 if none is left."""
        return Archive(self._database).move("answers", _IMPRESSIONS, _IMPRESSIONS.c.timestamp < before)

    def delete_before(self, before: float) -> int:
        """Delete the responses from before a time (epoch seconds) that are not in files; return how many."""
        with self._database.transaction() as connection:
            return connection.execute(_IMPRESSIONS.delete().where(_IMPRESSIONS.c.timestamp < before)).rowcount

    def event_batches(
        self, excluded_requests: AbstractSet[str] = frozenset(), since: float = 0.0, until: int | None = None
    ) -> Iterator[Any]:
        """Yield the impressions of identified users as pyarrow.RecordBatches of EVENT_SCHEMA.

        Args:
            excluded_requests: requests whose impressions are left out.
            since: only impressions from this time on, in epoch seconds.
            until: only responses up to this sequence number.
        """
        for batch in self.batches(since=since, until=until):
            records = [
                record
                for _, record in batch
                if record.user_id is not None and record.request_id not in excluded_requests
            ]
            yield as_batch(event for record in records for event in record.events())

    def _row(self, record: ImpressionRecord) -> dict[str, Any]:
        shown = record.shown
        return {
            "request_id": record.request_id,
            "user_id": None if record.user_id is None else self._database.stored_user_id(record.user_id),
            "timestamp": record.timestamp,
            "release": record.release,
            "scorer": shown.scorer,
            "policy": shown.policy,
            "items": orjson.dumps(list(shown.items)),
            "scores": shown.scores.astype(np.float32).tobytes(),
            "propensities": shown.propensities.astype(np.float32).tobytes(),
            "hidden": shown.hidden.astype(np.float16).tobytes(),
            "chances": shown.probabilities.astype(np.float32).tobytes(),
        }


def events_with_impressions(
    events: EventLog,
    impressions: ImpressionLog,
    since: float,
    events_until: int | None = None,
    impressions_until: int | None = None,
) -> Iterator[Any]:
    """Yield all events, then the logged impressions, as pyarrow.RecordBatches of EVENT_SCHEMA.

    If a shop sends impressions of a request itself, they replace those that were logged: the shop knows better what the
    user saw.

    Args:
        events: the event log.
        impressions: the impression log of the same database.
        since: only logged impressions from this time on, in epoch seconds.
        events_until: only events up to this sequence number.
        impressions_until: only responses up to this sequence number.
    """
    reported: set[str] = set()
    for _, batch in events.batches(until=events_until):
        own = batch.filter(pc.equal(batch.column("type"), "impression"))
        reported |= {request_id for request_id in own.column("request_id").to_pylist() if request_id}
        yield batch
    yield from impressions.event_batches(reported, since, impressions_until)


def _record(*values: Any) -> ImpressionRecord:
    request_id, user_id, timestamp, release, scorer, policy, items, *arrays = values
    ids = orjson.loads(items)
    scores, propensities, hidden, probabilities = (
        np.frombuffer(array, dtype).astype(np.float32)
        for array, dtype in zip(arrays, (np.float32, np.float32, np.float16, np.float32), strict=True)
    )
    rows = (_item_rows(matrix, len(ids)) for matrix in (hidden, probabilities))
    shown = ShownItems(ids, scorer, policy, scores, propensities, *rows)
    return ImpressionRecord(request_id, user_id, timestamp, release, shown)


def _item_rows(values: Floats, items: int) -> Floats:
    return values.reshape(items, -1) if len(values) else values.reshape(0, 0)
