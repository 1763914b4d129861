"""Bot detection: users who look like bots or click floods go into quarantine, stored and served, but not learned from.

Fixed limits catch what no person does: more than one event a second for a minute, intervals as regular as a clock's,
one item again and again. An isolation forest (Liu, Ting and Zhou, ICDM 2008; scikit-learn) catches users who differ
from all others in rate, regularity and breadth together, among those with enough events to judge.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serve.core.units import DAY
from serve.storage.event_log import EventLog
from serve.storage.quarantine import Quarantine

MINUTE = 60.0
MAX_PER_MINUTE = 60  # events
MIN_EVENTS = 30  # of a user whose habits are judged
MIN_VARIATION = 0.1  # standard deviation of the intervals between events divided by their mean; a machine has less
MAX_SAME_ITEM = 50  # events with one item in a day
MAX_ANOMALY = 0.72  # score of the isolation forest, from 0 to 1; 0.5 is ordinary
MIN_USERS = 100  # for an isolation forest
MAX_FITTED_USERS = 50_000
FEATURES = ("events", "per_minute", "variation", "breadth", "same_item")


@dataclass(frozen=True)
class Suspect:
    """A user who looks like a bot, and the reason."""

    user_id: str
    reason: str


def find_bots(events: EventLog, seed: int = 0) -> list[Suspect]:
    """Return the users in the log who look like bots or click floods and were never in quarantine."""
    users, habits, violations = user_habits(batch for _, batch in events.batches(quarantined=True))
    reasons: dict[int, str] = dict(violations)
    judged = np.flatnonzero(habits[:, 0] >= np.log1p(MIN_EVENTS))
    if len(judged) >= MIN_USERS:
        from sklearn.ensemble import IsolationForest  # slow to import

        sample = np.random.default_rng(seed).permutation(judged)[:MAX_FITTED_USERS]
        forest = IsolationForest(n_estimators=200, random_state=seed).fit(habits[sample])
        for user, score in zip(judged.tolist(), (-forest.score_samples(habits[judged])).tolist(), strict=True):
            if score > MAX_ANOMALY:
                reasons.setdefault(user, f"unlike other users in rate, regularity and breadth ({score:.2f})")
    known = {entry.user_id for entry in Quarantine(events.database).entries()}
    return [Suspect(users[user], reason) for user, reason in sorted(reasons.items()) if users[user] not in known]


def user_habits(batches: Iterable[Any]) -> tuple[list[str], NDArray[np.float64], Iterator[tuple[int, str]]]:
    """Compute the habits of all users with interactions, from pyarrow.RecordBatches of EVENT_SCHEMA.

    Returns:
        The user ids; the habits [users, FEATURES], counts as log(1 + count); and pairs of a row and a violated limit.
    """
    columns = ["user_id", "item_id", "type", "timestamp"]
    tables = [pa.table({name: batch.column(name) for name in columns}) for batch in batches]
    if not tables:
        return [], np.empty((0, len(FEATURES))), iter(())
    table = pa.concat_tables(tables)
    table = table.filter(pc.not_equal(table["type"], "impression"))
    user_column, item_column = (pc.dictionary_encode(table[name].combine_chunks()) for name in ("user_id", "item_id"))
    user = user_column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    item = item_column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    time = table["timestamp"].to_numpy()
    order = np.lexsort((time, user))
    user, item, time = user[order], item[order], time[order]
    count = len(user_column.dictionary)
    events = np.bincount(user, minlength=count)
    # Shift the times of each user beyond those of the one before, so that one search serves all users.
    shifted = time - time.min(initial=np.inf) + user * (np.ptp(time) + 2 * MINUTE if len(time) else 0.0)
    within_minute = np.searchsorted(shifted, shifted + MINUTE) - np.arange(len(user))
    per_minute = np.zeros(count)
    np.maximum.at(per_minute, user, within_minute)
    intervals = np.diff(time)
    same_user = user[1:] == user[:-1]
    interval_count = np.bincount(user[1:][same_user], minlength=count).clip(min=1)
    mean = np.bincount(user[1:][same_user], intervals[same_user], minlength=count) / interval_count
    square = np.bincount(user[1:][same_user], intervals[same_user] ** 2, minlength=count) / interval_count
    variation = np.sqrt(np.maximum(0, square - mean**2)) / np.maximum(mean, 1e-9)
    day = (time // DAY).astype(np.int64)
    _, first, times = np.unique(np.stack([user, item, day], 1), axis=0, return_index=True, return_counts=True)
    same_item = np.zeros(count)
    np.maximum.at(same_item, user[first], times)
    items = item.max(initial=0) + 1
    distinct_items = np.bincount(np.unique(user * items + item) // items, minlength=count)
    habits = np.stack(
        [
            np.log1p(events),
            np.log1p(per_minute),
            np.log(np.clip(variation, 1e-3, 1e3)),
            distinct_items / np.maximum(events, 1),
            np.log1p(same_item),
        ],
        1,
    )

    def violations() -> Iterator[tuple[int, str]]:
        for row in range(count):
            if per_minute[row] > MAX_PER_MINUTE:
                yield row, f"{int(per_minute[row])} events in a minute"
            elif same_item[row] > MAX_SAME_ITEM:
                yield row, f"{int(same_item[row])} events with one item in a day"
            elif events[row] >= MIN_EVENTS and variation[row] < MIN_VARIATION:
                yield row, f"{int(events[row])} events every {mean[row]:.0f} s, with {variation[row]:.0%} variation"

    return user_column.dictionary.to_pylist(), habits, violations()


def quarantine_bots(events: EventLog) -> list[Suspect]:
    """Find bots and click floods, and put them into quarantine; return the new ones."""
    suspects = find_bots(events)
    Quarantine(events.database).add({suspect.user_id: suspect.reason for suspect in suspects})
    return suspects
