"""Robots and click floods: who looks like one goes into quarantine, kept and shown, but not learned from.

Plain limits catch what no person does: more than one act a second for a minute, a beat as steady as a clock's, one item
again and again. An isolation forest (Liu, Ting and Zhou, ICDM 2008; scikit-learn) catches who is unlike everybody else
in rate, regularity and breadth together, among those with enough acts to tell.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serve.storage.event_log import EventLog

MINUTE = 60.0
MAX_A_MINUTE = 60  # acts
FEWEST = 30  # acts, below which nobody is judged by habits
STEADY = 0.1  # deviation of the gaps between acts beside their mean, below which they are a machine's
MAX_OF_ONE = 50  # acts on one item in a day
STRANGE = 0.72  # score of the isolation forest, from 0 to 1; 0.5 is ordinary
MAX_FITTED = 50_000  # shoppers that the forest grows from
DAY = 86_400.0
FEATURES = ("acts", "a_minute", "steadiness", "breadth", "most_of_one")


@dataclass(frozen=True)
class Suspect:
    """Who looks like one, and why in words."""

    user_id: str
    reason: str


def look(events: EventLog, seed: int = 0) -> list[Suspect]:
    """Who in the log looks like a robot or a flood and was not in quarantine before."""
    users, habits, limits = habits_of(batch for _, batch in events.batches(quarantined=True))
    reasons: dict[int, str] = dict(limits)
    enough = np.flatnonzero(habits[:, 0] >= np.log1p(FEWEST))
    if len(enough) >= 100:
        from sklearn.ensemble import IsolationForest  # slow to import

        chosen = np.random.default_rng(seed).permutation(enough)[:MAX_FITTED]
        forest = IsolationForest(n_estimators=200, random_state=seed).fit(habits[chosen])
        for user, score in zip(enough.tolist(), (-forest.score_samples(habits[enough])).tolist(), strict=True):
            if score > STRANGE:
                reasons.setdefault(user, f"unlike other shoppers in rate, regularity and breadth ({score:.2f})")
    known = {one.user_id for one in events.quarantined()}
    return [Suspect(users[user], why) for user, why in sorted(reasons.items()) if users[user] not in known]


def habits_of(batches: Iterable[Any]) -> tuple[list[str], NDArray[np.float64], Iterator[tuple[int, str]]]:
    """All users, their habits [users, FEATURES], and who broke which plain limit, by number."""
    wanted = ["user_id", "item_id", "type", "timestamp"]
    tables = [pa.table({name: batch.column(name) for name in wanted}) for batch in batches]
    if not tables:
        return [], np.empty((0, len(FEATURES))), iter(())
    table = pa.concat_tables(tables)
    table = table.filter(pc.not_equal(table["type"], "impression"))
    user_column, item_column = (pc.dictionary_encode(table[name].combine_chunks()) for name in ("user_id", "item_id"))
    user = user_column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    item = item_column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    moment = table["timestamp"].to_numpy()
    order = np.lexsort((moment, user))
    user, item, moment = user[order], item[order], moment[order]
    count = len(user_column.dictionary)
    acts = np.bincount(user, minlength=count)
    # One user's times lie beyond all of another's.
    line = moment - moment.min(initial=np.inf) + user * (np.ptp(moment) + 2 * MINUTE if len(moment) else 0.0)
    within = np.searchsorted(line, line + MINUTE) - np.arange(len(user))
    a_minute = np.zeros(count)
    np.maximum.at(a_minute, user, within)
    gaps = np.diff(moment)
    own = user[1:] == user[:-1]
    number = np.bincount(user[1:][own], minlength=count).clip(min=1)
    mean = np.bincount(user[1:][own], gaps[own], minlength=count) / number
    square = np.bincount(user[1:][own], gaps[own] ** 2, minlength=count) / number
    varies = np.sqrt(np.maximum(0, square - mean**2)) / np.maximum(mean, 1e-9)
    day = (moment // DAY).astype(np.int64)
    _, first, times = np.unique(np.stack([user, item, day], 1), axis=0, return_index=True, return_counts=True)
    most_of_one = np.zeros(count)
    np.maximum.at(most_of_one, user[first], times)
    pairs = np.unique(user * (item.max(initial=0) + 1) + item)
    distinct = np.bincount(pairs // (item.max(initial=0) + 1), minlength=count)
    habits = np.stack(
        [
            np.log1p(acts),
            np.log1p(a_minute),
            np.log(np.clip(varies, 1e-3, 1e3)),
            distinct / np.maximum(acts, 1),
            np.log1p(most_of_one),
        ],
        1,
    )

    def broken() -> Iterator[tuple[int, str]]:
        for one in range(count):
            if a_minute[one] > MAX_A_MINUTE:
                yield one, f"{int(a_minute[one])} acts in a minute"
            elif most_of_one[one] > MAX_OF_ONE:
                yield one, f"{int(most_of_one[one])} acts on one item in a day"
            elif acts[one] >= FEWEST and varies[one] < STEADY:
                yield one, f"{int(acts[one])} acts at a beat of {mean[one]:.0f} s, steady to {varies[one]:.0%}"

    return user_column.dictionary.to_pylist(), habits, broken()


def watch(events: EventLog) -> list[Suspect]:
    """Look for robots and floods, and put them into quarantine; who is new there."""
    found = look(events)
    events.quarantine({one.user_id: one.reason for one in found})
    return found
