"""Online learning: reads new impressions and interactions from the logs, and updates the online head of a scorer.

Every process reads the same two logs and adds the same numbers, so all learn the same head; a process that starts
reads the recent part of the logs again. The influence of one user is bounded: at most `max_daily_responses` responses
count, only interactions of that user with them, and each interaction with an item once. And only users count that the
log had when the scorer was trained: bots were looked for among those (serve.storage.bot_detection). Newer users, under
however many names, are checked first.
"""

import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Event
from serve.core.metrics import LEARNED
from serve.core.settings import Settings
from serve.core.units import DAY
from serve.recommend.ranking.impressions import HORIZON, heads_for_event
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.scorer import Scorer
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog
from serve.storage.impression_log import ImpressionLog, ImpressionRecord

MAX_IMPRESSIONS = 20_000  # kept in memory until their interactions arrive
RECENT_HALF_LIVES = 6.0  # how far back a process that starts reads


class OnlineLearner:
    """Keeps the online head of a scorer. `learned` and `ignored` count interactions. Used by one thread.

    After an erasure of a user, everything is learned again from the remaining logs.
    """

    def __init__(self, events: EventLog, settings: Settings, scorer: Scorer) -> None:
        self._events, self._impressions, self._settings = events, ImpressionLog(events.database), settings
        self._privacy = UserPrivacy(events.database, settings.store)
        self._scorer, self._events_until = scorer.fingerprint, scorer.metadata.events_until
        scale, online = np.array(scorer.metadata.hidden_scale, np.float32), settings.online
        self.head = OnlineHead(list(scorer.metadata.heads), scale, online.prior, online.half_life_days, time.time())
        self._state = self._initial_state()
        self.learned = self.ignored = 0

    def _initial_state(self) -> "_LearningState":
        lag = self._events.database.commit_lag
        return _LearningState(self._privacy.count_erasures(), _LogPosition(lag), _LogPosition(lag))

    def catch_up(self) -> None:
        """Learn from what is new in the logs. Raises StoreUnavailable where they cannot be read; nothing is lost."""
        if self._state.erasures != self._privacy.count_erasures():
            self._state = self._initial_state()
            self.head.clear()
        state = self._state
        since = time.time() - RECENT_HALF_LIVES * self._settings.online.half_life_days * DAY
        # Events are read first: the impression of an event that is read here is in its log by then.
        events = self._events.attributed_events(state.events.after, since)
        for batch in self._impressions.batches(state.impressions.after, since):
            for sequence, record in batch:
                if state.impressions.is_first_time(sequence):
                    self._add_impression(state, record)
        for sequence, event in events:
            if state.events.is_first_time(sequence):
                self._learn_event(state, event)

    def _add_impression(self, state: "_LearningState", record: ImpressionRecord) -> None:
        shown = record.shown
        if record.user_id is None or shown.scorer != self._scorer or not len(shown.hidden):
            return
        if record.user_id not in state.is_known_user:
            state.is_known_user[record.user_id] = self._events.has_events_until(record.user_id, self._events_until)
        if not state.is_known_user[record.user_id]:
            return
        user_and_day = record.user_id, int(record.timestamp // DAY)
        state.daily_counts[user_and_day] += 1
        if state.daily_counts[user_and_day] > self._settings.online.max_daily_responses:
            return
        self.head.record_shown(shown.hidden, shown.probabilities, record.timestamp)
        rows = {item_id: row for row, item_id in enumerate(shown.items)}
        hidden = shown.hidden.astype(np.float16)
        state.recent[record.request_id] = _RecentImpression(record.user_id, record.timestamp, rows, hidden)
        if len(state.recent) > MAX_IMPRESSIONS:
            state.recent.popitem(last=False)

    def _learn_event(self, state: "_LearningState", event: Event) -> None:
        impression = state.recent.get(event.request_id or "")
        if impression is None or event.user_id != impression.user_id or event.item_id not in impression.rows:
            self.ignored += 1
            LEARNED.labels("ignored").inc()
            return
        is_in_time = impression.time <= event.timestamp <= impression.time + HORIZON
        for head in heads_for_event(event.type, event.value, self._settings.min_liked_rating):
            if is_in_time and head in self.head.heads and (event.item_id, head) not in impression.learned:
                impression.learned.add((event.item_id, head))
                hidden = impression.hidden[impression.rows[event.item_id]].astype(np.float32)
                self.head.record_outcome(hidden, head, impression.time)
                self.learned += 1
                LEARNED.labels("learned").inc()


@dataclass
class _RecentImpression:
    """An impression that counts: the row of each item, its hidden layer [n, hidden], and the interactions learned."""

    user_id: str
    time: float
    rows: dict[str, int]
    hidden: NDArray[np.float16]
    learned: set[tuple[str, str]] = field(default_factory=set)


class _LogPosition:
    """How far a log was read. Rows of the last `commit_lag` seconds are read again: some become visible late."""

    def __init__(self, commit_lag: float) -> None:
        self._commit_lag, self.after = commit_lag, 0
        self._recent: deque[tuple[float, int]] = deque()
        self._recent_sequences: set[int] = set()

    def is_first_time(self, sequence: int) -> bool:
        """Return whether a row is read for the first time, and remember it."""
        if sequence in self._recent_sequences:
            return False
        now = time.monotonic()
        self._recent.append((now, sequence))
        self._recent_sequences.add(sequence)
        while self._recent and self._recent[0][0] <= now - self._commit_lag:
            _, old = self._recent.popleft()
            self._recent_sequences.discard(old)
            self.after = max(self.after, old)
        return True


@dataclass
class _LearningState:
    """How far the logs were read, and what counts so far; `erasures` is their number when reading began."""

    erasures: int
    impressions: _LogPosition
    events: _LogPosition
    recent: OrderedDict[str, _RecentImpression] = field(default_factory=OrderedDict)
    daily_counts: Counter[tuple[str, int]] = field(default_factory=Counter)
    is_known_user: dict[str, bool] = field(default_factory=dict)
