"""Feedback: what came of answers, read from the log as it comes, into the online head of the scorer that answers.

Every process reads the same two logs and adds the same numbers, so all learn the same head; one that starts reads what
is recent again. What one shopper can do to it is bounded: at most `most_a_day` answers count, only what that shopper
did with them, and each act on an item once. And only shoppers count whom the log knew when the scorer was trained:
robots were looked for among them (serve.storage.bot_detection); who is new since, under however many names, is
looked at first.
"""

import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Event
from serve.core.metrics import LEARNED
from serve.core.settings import Settings
from serve.recommend.ranking.impressions import HORIZON, heads_of_event
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.scorer import Scorer
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog
from serve.storage.impression_log import ImpressionLog, ImpressionRecord

MAX_KEPT = 20_000  # answers that acts are waited for
RECENT_HALF_LIVES = 6.0  # how far back a process that starts reads
DAY = 86_400.0


class OnlineLearner:
    """Keeps the online head of a scorer; `learned` and `ignored` count acts. One thread catches up.

    When somebody is forgotten, all is learned anew from what is left.
    """

    def __init__(self, events: EventLog, settings: Settings, scorer: Scorer) -> None:
        self._events, self._answers, self._settings = events, ImpressionLog(events.database), settings
        self._rights = UserPrivacy(events.database, settings.store)
        self._scorer, self._events_until = scorer.fingerprint, scorer.facts.events_until
        scale, online = np.array(scorer.facts.hidden_scale, np.float32), settings.online
        self.head = OnlineHead(list(scorer.facts.heads), scale, online.prior, online.half_life_days, time.time())
        self._learning = self._begun()
        self.learned = self.ignored = 0

    def _begun(self) -> "_Learning":
        return _Learning(self._rights.erasures(), _Read(self._events.late), _Read(self._events.late))

    def catch_up(self) -> None:
        """Take in what is new in the logs. Raises Broken where they cannot be read; nothing is lost then."""
        if self._learning.erasures != self._rights.erasures():
            self._learning = self._begun()
            self.head.clear()
        learning = self._learning
        since = time.time() - RECENT_HALF_LIVES * self._settings.online.half_life_days * DAY
        # Acts are read first: the answer of one that is seen here is there by then.
        acts = self._events.acts(learning.acts.after, since)
        for lot in self._answers.batches(learning.answers.after, since):
            for number, answer in lot:
                if learning.answers.first_seen(number):
                    self._shown(learning, answer)
        for number, event in acts:
            if learning.acts.first_seen(number):
                self._came(learning, event)

    def _shown(self, learning: "_Learning", answer: ImpressionRecord) -> None:
        shown = answer.display
        if answer.user_id is None or shown.scorer != self._scorer or not len(shown.hidden):
            return
        if answer.user_id not in learning.knew:
            learning.knew[answer.user_id] = self._events.knew(answer.user_id, self._events_until)
        if not learning.knew[answer.user_id]:
            return
        day = answer.user_id, int(answer.timestamp // DAY)
        learning.of_day[day] += 1
        if learning.of_day[day] > self._settings.online.most_a_day:
            return
        self.head.shown(shown.hidden, shown.probabilities, answer.timestamp)
        rows = {item_id: row for row, item_id in enumerate(shown.items)}
        hidden = shown.hidden.astype(np.float16)
        learning.kept[answer.request_id] = _Kept(answer.user_id, answer.timestamp, rows, hidden)
        if len(learning.kept) > MAX_KEPT:
            learning.kept.popitem(last=False)

    def _came(self, learning: "_Learning", event: Event) -> None:
        kept = learning.kept.get(event.request_id or "")
        if kept is None or event.user_id != kept.user_id or event.item_id not in kept.rows:
            self.ignored += 1
            LEARNED.labels("ignored").inc()
            return
        in_time = kept.time <= event.timestamp <= kept.time + HORIZON
        for name in heads_of_event(event.type, event.value, self._settings.liked_from):
            if in_time and name in self.head.heads and (event.item_id, name) not in kept.came:
                kept.came.add((event.item_id, name))
                self.head.came(kept.hidden[kept.rows[event.item_id]].astype(np.float32), name, kept.time)
                self.learned += 1
                LEARNED.labels("learned").inc()


@dataclass
class _Kept:
    """An answer that counts: where each item is in it, its hidden layer [n, hidden], and what came of it so far."""

    user_id: str
    time: float
    rows: dict[str, int]
    hidden: NDArray[np.float16]
    came: set[tuple[str, str]] = field(default_factory=set)


class _Read:
    """How far a log was read. Rows within `late` seconds of the last are looked at again: some come to light late."""

    def __init__(self, late: float) -> None:
        self._late, self.after = late, 0
        self._seen: deque[tuple[float, int]] = deque()
        self._numbers: set[int] = set()

    def first_seen(self, number: int) -> bool:
        """Whether a row was not seen before; it is from now on."""
        if number in self._numbers:
            return False
        now = time.monotonic()
        self._seen.append((now, number))
        self._numbers.add(number)
        while self._seen and self._seen[0][0] <= now - self._late:
            _, old = self._seen.popleft()
            self._numbers.discard(old)
            self.after = max(self.after, old)
        return True


@dataclass
class _Learning:
    """How far the logs were read, and what counts so far; `erasures` is how many there were when that began."""

    erasures: int
    answers: _Read
    acts: _Read
    kept: OrderedDict[str, _Kept] = field(default_factory=OrderedDict)
    of_day: Counter[tuple[str, int]] = field(default_factory=Counter)
    knew: dict[str, bool] = field(default_factory=dict)
