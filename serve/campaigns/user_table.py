"""The taste of all shoppers of the log, kept up to date in memory.

Nothing of it is written into a release, so that an erasure has nothing to reach there: what is in memory is made anew
from the log when shoppers were erased or another release answers, and else grows by what they did since.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import collect
from embed.behaviour.interactions import MOST
from index.protocol import VectorIndex
from serve.campaigns.conversion_model import ConversionModel, fit_conversion_model
from serve.campaigns.user_vectors import center_of, unit, user_vectors
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.recommend.retrieval.retrievers import TOWER
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog


@dataclass(frozen=True)
class UserTable:
    """m shoppers at one instant, by id: ids, taste as unit vectors [m, width], interactions and likes [m].

    Those without a known item are not among them. `center` [width] is what taste is about, `response` is how likely
    they are to act.
    """

    ids: Sequence[str]
    vectors: NDArray[np.float32]
    counts: NDArray[np.int64]
    likes: NDArray[np.int64]
    center: NDArray[np.float32]
    response: ConversionModel

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {user_id: place for place, user_id in enumerate(self.ids)}

    def among(self, user_ids: Iterable[str]) -> NDArray[np.bool_]:
        """Which of the shoppers are among some users, [m]."""
        mask = np.zeros(len(self), np.bool_)
        mask[[place for user_id in user_ids if (place := self._places.get(user_id)) is not None]] = True
        return mask


class UserTableCache:
    """The shoppers of a log, in the tower space of an engine; safe in several threads."""

    def __init__(self, events: EventLog, rights: UserPrivacy, settings: Settings) -> None:
        self._events, self._rights, self._settings = events, rights, settings
        self._lock = threading.Lock()
        self._made_for: tuple[str, int, int] | None = None
        self._until = 0
        self._shoppers: UserTable | None = None

    def current(self, engine: Engine) -> UserTable:
        """The shoppers now; raises BadRequest where the release has no towers."""
        tower = engine.view.release.tower
        if tower is None:
            raise BadRequest("audiences need a user model: run vetrina train towers, then vetrina build", TOWER)
        with self._lock:
            key = (engine.view.release.name, self._rights.erasures(), self._events.quarantines())
            if self._shoppers is None or self._made_for != key:
                until = self._events.last()
                self._shoppers, self._made_for, self._until = self._all(engine, tower, until), key, until
            else:
                self._grow(engine)
            return self._shoppers

    def _all(self, engine: Engine, tower: VectorIndex, until: int) -> UserTable:
        release = engine.view.release
        batches = (batch for _, batch in self._events.batches(until=until))
        interactions, _ = collect(batches, release.catalogue.ids(), self._settings.signal)
        items = tower.vectors_of(np.arange(release.manifest.items))
        center = center_of(items, interactions)
        vectors, counts, likes = user_vectors(items, center, interactions)
        there = np.flatnonzero(counts)
        there = there[np.argsort(interactions.users[there])]
        response = fit_conversion_model(items, interactions)
        return UserTable(
            interactions.users[there].tolist(), vectors[there], counts[there], likes[there], center, response
        )

    def _grow(self, engine: Engine) -> None:
        """Take in what was done since: each shopper who did anything is seen anew."""
        assert self._shoppers is not None  # noqa: S101
        touched: set[str] = set()
        for number, batch in self._events.batches(after=self._until):
            touched.update(batch.column("user_id").to_pylist())
            self._until = number
        before = self._shoppers
        seen = [(user, one) for user in sorted(touched) if (one := self._seen(engine, user, before.center)) is not None]
        if not seen:
            return
        kept = np.array([place for place, user in enumerate(before.ids) if user not in touched], np.int64)
        tastes_, counts, likes = (np.stack(column) for column in zip(*(one for _, one in seen), strict=True))
        ids = np.array([*(before.ids[place] for place in kept), *(user for user, _ in seen)], np.object_)
        order = np.argsort(ids)
        self._shoppers = UserTable(
            ids[order].tolist(),
            np.concatenate([before.vectors[kept], tastes_])[order],
            np.concatenate([before.counts[kept], counts])[order],
            np.concatenate([before.likes[kept], likes])[order],
            before.center,
            before.response,
        )

    def _seen(
        self, engine: Engine, user_id: str, center: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], np.int64, np.int64] | None:
        """A shopper's taste [width], interactions and likes; None without a known item."""
        tower = engine.view.tower
        assert tower is not None  # noqa: S101
        user = engine.user(self._events.recent(user_id, MOST, impressions=False))
        if not len(user):
            return None
        liked = user.item[user.weight > 0]
        total = (tower.vectors_of(liked) - center).sum(0)
        return unit(total[None])[0], np.int64(len(user)), np.int64(len(liked))
