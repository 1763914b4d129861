"""All shoppers of the log as the user tower sees them, kept up to date in memory.

Nothing of them is written into a release, so that an erasure has nothing to reach there: what is in memory is made
anew from the log when shoppers were erased or another release answers, and else grows by what they did since.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import collect
from serve.audience.response import Response, fit_response
from serve.behaviour import ShopperVector
from serve.errors import BadRequest
from serve.learn.event_store import EventStore
from serve.learn.known import MOST_RECENT
from serve.learn.rights import Rights
from serve.retrieve.engine import Engine
from serve.settings import Settings


@dataclass(frozen=True)
class Shoppers:
    """m shoppers at one instant: ids, unit vectors of the tower space [m, width], interactions [m], and the last's time
    [m] in epoch seconds. Those without a known item are not among them. `response` is how likely they are to act."""

    ids: Sequence[str]
    vectors: NDArray[np.float32]
    counts: NDArray[np.int64]
    latest: NDArray[np.float64]
    response: Response

    def __len__(self) -> int:
        return len(self.ids)


class ShopperTable:
    """The shoppers of a log, by an engine's towers; safe in several threads."""

    def __init__(self, events: EventStore, rights: Rights, settings: Settings) -> None:
        self._events, self._rights, self._settings = events, rights, settings
        self._lock = threading.Lock()
        self._made_for: tuple[str, int, int] | None = None
        self._until = 0
        self._shoppers: Shoppers | None = None

    def current(self, engine: Engine) -> Shoppers:
        """The shoppers now; raises BadRequest where the release has no towers."""
        release = engine.view.release
        if release.behaviour.towers is None:
            raise BadRequest("audiences need a user model: run vetrina train towers, then vetrina build", "release")
        with self._lock:
            key = (release.name, self._rights.erasures(), self._events.quarantines())
            if self._shoppers is None or self._made_for != key:
                until = self._events.last()
                self._shoppers, self._made_for, self._until = self._all(engine, until), key, until
            else:
                self._grow(engine)
            return self._shoppers

    def _all(self, engine: Engine, until: int) -> Shoppers:
        release = engine.view.release
        towers, tower = release.behaviour.towers, release.tower
        assert towers is not None and tower is not None  # noqa: S101, PT018
        batches = (batch for _, batch in self._events.batches(until=until))
        interactions, _ = collect(batches, release.catalogue.ids(), self._settings.signal)
        items = tower.vectors_of(np.arange(release.manifest.items))
        vectors = towers.user_vectors(items, interactions)
        counts = np.diff(interactions.starts)
        there = np.flatnonzero(counts)
        return Shoppers(
            interactions.users[there].tolist(),
            vectors[there],
            counts[there],
            interactions.time[interactions.starts[there + 1] - 1],
            fit_response(towers, items, interactions),
        )

    def _grow(self, engine: Engine) -> None:
        """Take in what was done since: each shopper who did anything is seen anew."""
        assert self._shoppers is not None  # noqa: S101
        touched: set[str] = set()
        for number, batch in self._events.batches(after=self._until):
            touched.update(batch.column("user_id").to_pylist())
            self._until = number
        seen = [(user, one) for user in sorted(touched) if (one := self._seen(engine, user)) is not None]
        if not seen:
            return
        known = {user: place for place, user in enumerate(self._shoppers.ids)}
        kept = np.array([place for user, place in known.items() if user not in touched], np.int64)
        before = self._shoppers
        self._shoppers = Shoppers(
            [*(before.ids[place] for place in kept), *(user for user, _ in seen)],
            np.concatenate([before.vectors[kept], np.stack([vector for _, (vector, _, _) in seen])]),
            np.concatenate([before.counts[kept], np.array([count for _, (_, count, _) in seen], np.int64)]),
            np.concatenate([before.latest[kept], np.array([latest for _, (_, _, latest) in seen])]),
            before.response,
        )

    def _seen(self, engine: Engine, user_id: str) -> tuple[NDArray[np.float32], int, float] | None:
        """A shopper's vector [width], how many interactions, and when the last was; None without a known item."""
        towers, tower = engine.view.release.behaviour.towers, engine.view.tower
        assert towers is not None and tower is not None  # noqa: S101, PT018
        shopper = engine.shopper(self._events.recent(user_id, MOST_RECENT, impressions=False))
        vector = ShopperVector(towers, tower)(shopper) if len(shopper) else None
        return None if vector is None else (vector, len(shopper), float(shopper.time[-1]))
