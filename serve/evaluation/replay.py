"""A release as it would have answered at moments of the past, by what its shoppers had done until then."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Event
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query_encoders import make_encoders
from serve.engine.user_context import MAX_RECENT, excluded_items
from serve.recommend.ranking.pipeline import Ranked
from serve.release.release import Release
from serve.release.snapshot import Snapshot
from serve.storage.event_log import EventLog


class ReleaseReplay:
    """A release without live changes, rules or what was learned online."""

    def __init__(self, release: Release, settings: Settings, events: EventLog) -> None:
        self.release, self.view = release, Snapshot(release)
        self._settings, self._events = settings, events
        self._engine = Engine(self.view, make_encoders(settings), settings)
        self.ranker = self._engine.ranker

    def ranked(self, user_id: str, k: int, moment: float) -> Ranked:
        """The k best items for a shopper as of a moment (epoch seconds)."""
        before = self._before(user_id, moment)
        left = [self.view.item_index(item_id) for item_id in excluded_items(before, self._settings)]
        barred = np.unique(np.array([number for number in left if number is not None], np.int64))
        return self.ranker.recommend(self._engine.user(before), k, barred, moment)

    def probabilities(
        self, user_id: str, items: NDArray[np.int64], places: NDArray[np.float32], moment: float
    ) -> NDArray[np.float32] | None:
        """How likely each head's act is for items [m, distinct and rising] at places [m] of a list, [m, heads].

        None without a scorer.
        """
        user = self._engine.user(self._before(user_id, moment))
        return self.ranker.probabilities(user, items, places, moment)

    def _before(self, user_id: str, moment: float) -> Sequence[Event]:
        return self._events.recent(user_id, MAX_RECENT, impressions=False, before=moment)
