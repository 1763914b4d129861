"""Replays a release at past moments: its recommendations from the events that users had until then."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Event
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query_encoders import make_encoders
from serve.engine.user_context import MAX_RECENT, excluded_items
from serve.recommend.ranking.ranked_candidates import RankedCandidates
from serve.release.release import Release
from serve.release.snapshot import Snapshot
from serve.storage.event_log import EventLog


class ReleaseReplay:
    """A release without live changes, rules and online learning."""

    def __init__(self, release: Release, settings: Settings, events: EventLog) -> None:
        self.release, self.snapshot = release, Snapshot(release)
        self._settings, self._events = settings, events
        self._engine = Engine(self.snapshot, make_encoders(settings), settings)
        self._ranker = self._engine.ranker

    def recommend(self, user_id: str, k: int, moment: float) -> RankedCandidates:
        """Return the k best items for a user as of a moment (epoch seconds)."""
        events = self._events_before(user_id, moment)
        indices = [self.snapshot.item_index(item_id) for item_id in excluded_items(events, self._settings)]
        excluded = np.unique(np.array([item_index for item_index in indices if item_index is not None], np.int64))
        return self._ranker.recommend(self._engine.user(events), k, excluded, moment)

    def probabilities(
        self, user_id: str, items: NDArray[np.int64], positions: NDArray[np.float32], moment: float
    ) -> NDArray[np.float32] | None:
        """Return each head's probability for items at positions of a list, [m, heads]; None without a scorer.

        Args:
            user_id: the user that the list is for.
            items: distinct item indices in rising order, [m].
            positions: the position of each item in the list, [m].
            moment: the time of the list, in epoch seconds.
        """
        user = self._engine.user(self._events_before(user_id, moment))
        return self._ranker.predict_at(user, items, positions, moment)

    def _events_before(self, user_id: str, moment: float) -> Sequence[Event]:
        return self._events.recent(user_id, MAX_RECENT, impressions=False, before=moment)
