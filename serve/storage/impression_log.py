"""The log of answers: what was shown to whom, by which release, why, and how likely that was.

An answer is one row. What came of it is found by its `request_id`, which events bring along; nothing is put down to a
request that is not here.
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
from serve.storage.event_log import EventLog, in_quarantine

PAGE = 5_000
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
    sqlite_autoincrement=True,  # a number that was erased must not come again
)
_COLUMNS = [column for column in _IMPRESSIONS.c if column.name != "sequence"]


@dataclass(frozen=True)
class Display:
    """n items as they are shown, the first first; `scorer` is empty where none ranked, `policy` says how it was chosen.

    Of each item its score [n], how likely it was at its place given those before [n], the scorer's last hidden layer
    [n, hidden] and the probability of each head at its place [n, heads]; the latter two are empty without a scorer.
    `features` [n, columns] are not logged.
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
    """What was shown to whom (None: nobody known) at a moment in epoch seconds, by which release."""

    request_id: str
    user_id: str | None
    timestamp: float
    release: str
    display: Display

    def impressions(self) -> list[Event]:
        """What was shown, as events."""
        return [
            Event(
                event_id=f"{self.request_id}/{place}",
                user_id=self.user_id or "",
                item_id=item_id,
                type="impression",
                timestamp=self.timestamp,
                request_id=self.request_id,
                position=place,
                value=None if np.isnan(likely) else likely,
            )
            for place, (item_id, likely) in enumerate(
                zip(self.display.items, self.display.propensities.tolist(), strict=True)
            )
        ]


class ImpressionLog:
    """The answers in a database; safe in several threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, answers: Sequence[ImpressionRecord]) -> None:
        """Keep answers, on disk when this returns; the first of a `request_id` stays."""
        if not answers:
            return
        statement = self._database.dialect.insert(_IMPRESSIONS).on_conflict_do_nothing(index_elements=["request_id"])
        with self._database.writing() as connection:
            connection.execute(statement, [self._row(answer) for answer in answers])

    def last(self) -> int:
        """The number of the last answer, 0 for none."""
        here = int(self._database.rows(select(func.coalesce(func.max(_IMPRESSIONS.c.sequence), 0)))[0][0])
        return max(here, Archive(self._database).last("answers"))

    def batches(
        self, after: int = 0, since: float = 0.0, until: int | None = None, page: int = PAGE
    ) -> Iterator[list[tuple[int, ImpressionRecord]]]:
        """All answers in the order they came with their numbers: those after a number and up to one, since a moment.

        Without those to users who are in quarantine. Those that were moved into files come first.
        """
        names = ["sequence", *(column.name for column in _COLUMNS)]
        excluded = {user_id for (user_id,) in self._database.rows(in_quarantine())}
        for table in Archive(self._database).tables("answers", after, until, since):
            for batch in table.to_batches(page):
                moved = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
                yield [(sequence, _answer(*values)) for sequence, *values in moved if values[1] not in excluded]
        while True:
            query = select(_IMPRESSIONS.c.sequence, *_COLUMNS).where(_IMPRESSIONS.c.sequence > after)
            if until is not None:
                query = query.where(_IMPRESSIONS.c.sequence <= until)
            query = query.where(or_(_IMPRESSIONS.c.user_id.is_(None), _IMPRESSIONS.c.user_id.not_in(in_quarantine())))
            rows = self._database.rows(
                query.where(_IMPRESSIONS.c.timestamp >= since).order_by(_IMPRESSIONS.c.sequence).limit(page)
            )
            if not rows:
                return
            after = rows[-1][0]
            yield [(sequence, _answer(*values)) for sequence, *values in rows]

    def erase(self, connection: Connection, user_id: str, until: float | None = None) -> int:
        """Remove the answers to a user, or those up to a moment, within a transaction; how many they were."""
        statement = _IMPRESSIONS.delete().where(_IMPRESSIONS.c.user_id == user_id)
        if until is not None:
            statement = statement.where(_IMPRESSIONS.c.timestamp <= until)
        return connection.execute(statement).rowcount

    def move(self, before: float) -> int:
        """Move answers from before a moment into a file; how many, 0 if none is left."""
        return Archive(self._database).move("answers", _IMPRESSIONS, _IMPRESSIONS.c.timestamp < before)

    def forget(self, before: float) -> int:
        """Delete the answers from before a moment that are not in files; how many they were."""
        with self._database.writing() as connection:
            return connection.execute(_IMPRESSIONS.delete().where(_IMPRESSIONS.c.timestamp < before)).rowcount

    def impressions(
        self, but: AbstractSet[str] = frozenset(), since: float = 0.0, until: int | None = None
    ) -> Iterator[Any]:
        """What was shown to known shoppers since a moment, as pyarrow.RecordBatches of EVENT_SCHEMA.

        Not of the requests in `but`, and of answers up to a number.
        """
        for lot in self.batches(since=since, until=until):
            wanted = [answer for _, answer in lot if answer.user_id is not None and answer.request_id not in but]
            yield as_batch(event for answer in wanted for event in answer.impressions())

    def _row(self, answer: ImpressionRecord) -> dict[str, Any]:
        shown = answer.display
        return {
            "request_id": answer.request_id,
            "user_id": None if answer.user_id is None else self._database.known_as(answer.user_id),
            "timestamp": answer.timestamp,
            "release": answer.release,
            "scorer": shown.scorer,
            "policy": shown.policy,
            "items": orjson.dumps(list(shown.items)),
            "scores": shown.scores.astype(np.float32).tobytes(),
            "propensities": shown.propensities.astype(np.float32).tobytes(),
            "hidden": shown.hidden.astype(np.float16).tobytes(),
            "chances": shown.probabilities.astype(np.float32).tobytes(),
        }


def with_impressions(
    events: EventLog,
    answers: ImpressionLog,
    since: float,
    events_until: int | None = None,
    impressions_until: int | None = None,
) -> Iterator[Any]:
    """All events and, since a moment, what answers showed, as pyarrow.RecordBatches of EVENT_SCHEMA.

    Of both those up to a number, where one is given.

    Where a shop sends impressions of a request itself, it knows better what was seen: they stand for the answer.
    """
    told: set[str] = set()
    for _, batch in events.batches(until=events_until):
        shown = batch.filter(pc.equal(batch.column("type"), "impression"))
        told |= {request_id for request_id in shown.column("request_id").to_pylist() if request_id}
        yield batch
    yield from answers.impressions(told, since, impressions_until)


def _answer(*values: Any) -> ImpressionRecord:
    request_id, user_id, timestamp, release, scorer, policy, items, *arrays = values
    ids = orjson.loads(items)
    scores, propensities, hidden, probabilities = (
        np.frombuffer(array, kind).astype(np.float32)
        for array, kind in zip(arrays, (np.float32, np.float32, np.float16, np.float32), strict=True)
    )
    display = Display(
        ids, scorer, policy, scores, propensities, *(_by_item(of, len(ids)) for of in (hidden, probabilities))
    )
    return ImpressionRecord(request_id, user_id, timestamp, release, display)


def _by_item(values: Floats, items: int) -> Floats:
    return values.reshape(items, -1) if len(values) else values.reshape(0, 0)
