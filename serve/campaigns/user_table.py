"""The vectors of all users of the event log, kept up to date in memory.

Nothing of it is written into a release, so an erasure has nothing to reach there. The table is made again from the log
after an erasure, a quarantine or a change of the release; otherwise only users with new events are updated.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import collect_interactions
from embed.behaviour.interactions import MAX_PER_USER
from index.protocol import VectorIndex
from serve.campaigns.conversion_model import ConversionModel, fit_conversion_model
from serve.campaigns.user_vectors import interaction_center, unit_rows, user_vectors
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.recommend.retrieval.retriever import TOWER
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog
from serve.storage.quarantine import Quarantine


@dataclass(frozen=True)
class UserTable:
    """m users at one instant, by id: ids, unit vectors [m, width], interactions and likes [m].

    Users without an interaction with a known item are not in it. All vectors are relative to `center` [width].
    """

    ids: Sequence[str]
    vectors: NDArray[np.float32]
    counts: NDArray[np.int64]
    likes: NDArray[np.int64]
    center: NDArray[np.float32]
    conversion_model: ConversionModel

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {user_id: row for row, user_id in enumerate(self.ids)}

    def mask(self, user_ids: Iterable[str]) -> NDArray[np.bool_]:
        """Return which rows are among some users, [m]."""
        mask = np.zeros(len(self), np.bool_)
        mask[[row for user_id in user_ids if (row := self._rows.get(user_id)) is not None]] = True
        return mask


class UserTableCache:
    """Keeps the table of a log's users, in the tower space of an engine; safe in several threads."""

    def __init__(self, events: EventLog, privacy: UserPrivacy, settings: Settings) -> None:
        self._events, self._privacy, self._settings = events, privacy, settings
        self._quarantine = Quarantine(events.database)
        self._lock = threading.Lock()
        self._key: tuple[str, int, int] | None = None
        self._until = 0  # the sequence number of the last event in the table
        self._table: UserTable | None = None

    def current(self, engine: Engine) -> UserTable:
        """Return the table with all events so far; raises BadRequest where the release has no towers."""
        tower = engine.snapshot.release.tower
        if tower is None:
            raise BadRequest("audiences need a user model: run vetrina train towers, then vetrina build", TOWER)
        with self._lock:
            key = (engine.snapshot.release.name, self._privacy.count_erasures(), self._quarantine.count())
            if self._table is None or self._key != key:
                until = self._events.last_sequence()
                self._table, self._key, self._until = self._build(engine, tower, until), key, until
            else:
                self._table = self._updated(engine, self._table)
            return self._table

    def _build(self, engine: Engine, tower: VectorIndex, until: int) -> UserTable:
        release = engine.snapshot.release
        batches = (batch for _, batch in self._events.batches(until=until))
        interactions, _ = collect_interactions(batches, release.catalogue.ids(), self._settings.signal)
        items = tower.first_vectors(np.arange(release.manifest.items))
        center = interaction_center(items, interactions)
        vectors, counts, likes = user_vectors(items, center, interactions)
        rows = np.flatnonzero(counts)
        rows = rows[np.argsort(interactions.users[rows])]
        ids = interactions.users[rows].tolist()
        model = fit_conversion_model(items, interactions)
        return UserTable(ids, vectors[rows], counts[rows], likes[rows], center, model)

    def _updated(self, engine: Engine, table: UserTable) -> UserTable:
        """Return the table with the users updated who have new events."""
        touched: set[str] = set()
        for sequence, batch in self._events.batches(after=self._until):
            touched.update(batch.column("user_id").to_pylist())
            self._until = sequence
        new = {user_id: row for user_id in sorted(touched) if (row := self._user_row(engine, user_id, table.center))}
        if not new:
            return table
        unchanged = np.array([row for row, user_id in enumerate(table.ids) if user_id not in touched], np.int64)
        vectors, counts, likes = (np.stack(column) for column in zip(*new.values(), strict=True))
        ids = np.array([*(table.ids[row] for row in unchanged), *new], np.object_)
        order = np.argsort(ids)
        return UserTable(
            ids[order].tolist(),
            np.concatenate([table.vectors[unchanged], vectors])[order],
            np.concatenate([table.counts[unchanged], counts])[order],
            np.concatenate([table.likes[unchanged], likes])[order],
            table.center,
            table.conversion_model,
        )

    def _user_row(
        self, engine: Engine, user_id: str, center: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], np.int64, np.int64] | None:
        """Return a user's vector [width], interactions and likes; None without a known item."""
        tower = engine.snapshot.tower
        assert tower is not None  # noqa: S101
        history = engine.user(self._events.recent(user_id, MAX_PER_USER, impressions=False))
        if not len(history):
            return None
        liked = history.item[history.weight > 0]
        total = (tower.first_vectors(liked) - center).sum(0)
        return unit_rows(total[None])[0], np.int64(len(history)), np.int64(len(liked))
