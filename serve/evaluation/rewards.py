"""What came of answers: what their shoppers did with them within a day, and what that is worth to the shop."""

import numpy as np
from numpy.typing import NDArray

from serve.core.settings import Settings
from serve.recommend.ranking.impressions import HORIZON, heads_of_event
from serve.storage.event_log import EventLog
from serve.storage.impression_log import ImpressionRecord


class RewardTable:
    """All that is in the log since a moment, without what is in quarantine; `count` is how many acts that are."""

    def __init__(self, events: EventLog, settings: Settings, since: float = 0.0) -> None:
        self._settings, self.count = settings, 0
        self._of: dict[str, list[tuple[str, str, float, str]]] = {}  # user, item, time and head, by request
        for _, event in events.acts(0, since):
            self.count += 1
            for head in heads_of_event(event.type, event.value, settings.liked_from):
                self._of.setdefault(event.request_id or "", []).append(
                    (event.user_id, event.item_id, event.timestamp, head)
                )

    def of(self, answer: ImpressionRecord) -> set[tuple[str, str]]:
        """The items and heads that came of an answer, each once; of one to nobody known nothing."""
        return {
            (item_id, head)
            for user_id, item_id, time, head in self._of.get(answer.request_id, ())
            if user_id == answer.user_id and 0 <= time - answer.timestamp <= HORIZON
        }

    def reward(self, answer: ImpressionRecord) -> NDArray[np.float64]:
        """What came of each place [k], in the worth that `head_values` say."""
        came, values = self.of(answer), self._settings.head_values
        return np.array([sum(values.get(h, 0.0) for i, h in came if i == item_id) for item_id in answer.display.items])
