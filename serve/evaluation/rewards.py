"""Rewards of responses: the interactions of their users within a day, and their worth to the shop."""

import numpy as np
from numpy.typing import NDArray

from serve.core.settings import Settings
from serve.recommend.ranking.impressions import HORIZON, heads_for_event
from serve.storage.event_log import EventLog
from serve.storage.impression_log import ImpressionRecord


class RewardTable:
    """The interactions with responses since a moment, without those of quarantined users; `count` is their number."""

    def __init__(self, events: EventLog, settings: Settings, since: float = 0.0) -> None:
        self._settings, self.count = settings, 0
        self._interactions: dict[str, list[tuple[str, str, float, str]]] = {}  # user, item, time and head, by request
        for _, event in events.attributed_events(0, since):
            self.count += 1
            for head in heads_for_event(event.type, event.value, settings.min_liked_rating):
                self._interactions.setdefault(event.request_id or "", []).append(
                    (event.user_id, event.item_id, event.timestamp, head)
                )

    def interactions(self, record: ImpressionRecord) -> set[tuple[str, str]]:
        """Return the items and heads of the interactions with a response, each once; none for an unknown user."""
        return {
            (item_id, head)
            for user_id, item_id, time, head in self._interactions.get(record.request_id, ())
            if user_id == record.user_id and 0 <= time - record.timestamp <= HORIZON
        }

    def rewards(self, record: ImpressionRecord) -> NDArray[np.float64]:
        """Return the reward at each position of a response [k], by the setting `head_values`."""
        interactions, values = self.interactions(record), self._settings.head_values
        return np.array(
            [
                sum(values.get(head, 0.0) for item_id, head in interactions if item_id == shown_id)
                for shown_id in record.shown.items
            ]
        )
