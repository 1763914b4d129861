"""Impressions: the lists that users were shown, and the outcome of each item in them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embed.behaviour import EVENT_SCHEMA, Signal
from serve.core.ranking_settings import HEADS
from serve.core.units import DAY

HORIZON = DAY  # seconds within which an event is attributed to a list
HEAD_EVENTS = {
    "click": ("view", "click", "cart", "purchase"),
    "cart": ("cart", "purchase"),
    "purchase": ("purchase",),
    "rating": ("rating",),
}


def heads_for_event(type_: str, value: float | None, min_liked_rating: float) -> list[str]:
    """Return the heads whose outcome an event is; a rating is one only from `min_liked_rating` on."""
    if type_ == "rating" and (value is None or value < min_liked_rating):
        return []
    return [head for head, types in HEAD_EVENTS.items() if type_ in types]


@dataclass(frozen=True)
class ImpressionTable:
    """n items shown in l lists, list by list: list i has the rows `starts[i]` to `starts[i + 1]` - 1.

    Attributes:
        users: The user of each list, [l].
        times: The time of each list, epoch seconds, [l].
        starts: Where each list begins, and where the last one ends, [l + 1].
        item: The item index of each row, [n].
        position: The position in the list from 0, [n]; NaN if the log does not have it.
        labels: Whether each of HEADS has an outcome, [n, heads].
        propensity: The probability that the item was shown there, [n]; NaN if the log does not have it.
    """

    users: NDArray[np.object_]
    times: NDArray[np.float64]
    starts: NDArray[np.int64]
    item: NDArray[np.int64]
    position: NDArray[np.float32]
    labels: NDArray[np.bool_]
    propensity: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)


def read_impressions(
    batches: Iterable[Any], item_ids: Any, signal: Signal, since: float, until: float = np.inf
) -> ImpressionTable:
    """Read the lists that were shown from `since` until before `until`.

    Impressions of one request, or of one user at one time, are a list. An event is attributed to the latest impression
    of its item to its user before it. Items that the catalogue does not have are ignored.

    Args:
        batches: pyarrow.RecordBatches of EVENT_SCHEMA.
        item_ids: The item ids of the catalogue, in order of their item indices.
        signal: What ratings count as liked.
        since: Epoch seconds.
        until: Epoch seconds.
    """
    columns = ["user_id", "item_id", "type", "timestamp", "value", "request_id", "position"]
    tables = [pa.table({name: batch.column(name) for name in columns}) for batch in batches]
    schema = pa.schema([EVENT_SCHEMA.field(name).with_nullable(True) for name in columns])
    table = pa.concat_tables([*tables, schema.empty_table()])
    inside = pc.and_(pc.greater_equal(table["timestamp"], since), pc.less(table["timestamp"], until + HORIZON))
    table = table.filter(inside)
    item_index = pc.index_in(table["item_id"], value_set=item_ids)
    table, item_index = table.filter(pc.is_valid(item_index)), item_index.filter(pc.is_valid(item_index))
    encoded = pc.dictionary_encode(table["user_id"].combine_chunks())
    user = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    names = encoded.dictionary.to_numpy(zero_copy_only=False)
    item, time = item_index.to_numpy().astype(np.int64), table["timestamp"].to_numpy()
    key = user * max(1, len(item_ids)) + item
    is_shown = pc.equal(table["type"], "impression").to_numpy(zero_copy_only=False) & (time < until)

    order = np.lexsort((time[is_shown], key[is_shown]))
    rows = np.flatnonzero(is_shown)[order]  # of impressions, by user and item and then by time
    labels = np.zeros((len(rows), len(HEADS)), np.bool_)
    types = table["type"].to_numpy(zero_copy_only=False)
    liked = np.nan_to_num(table["value"].to_numpy(), nan=-np.inf) >= signal.liked_from
    for head, name in enumerate(HEADS):
        outcomes = np.flatnonzero(np.isin(types, HEAD_EVENTS[name]) & (liked if name == "rating" else True))
        shown = _find_last_before(key[rows], time[rows], key[outcomes], time[outcomes])
        labels[shown[shown >= 0], head] = True
    request = pc.fill_null(table["request_id"], "").to_numpy(zero_copy_only=False)
    by_list = np.lexsort((request[rows], time[rows], user[rows]))
    rows, labels = rows[by_list], labels[by_list]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (
        (user[rows[1:]] != user[rows[:-1]])
        | (time[rows[1:]] != time[rows[:-1]])
        | (request[rows[1:]] != request[rows[:-1]])
    )
    starts = np.concatenate([np.flatnonzero(first), [len(rows)]])
    position, value = (table[name].to_numpy(zero_copy_only=False).astype(np.float32) for name in ("position", "value"))
    propensity = np.where((value[rows] > 0) & (value[rows] <= 1), value[rows], np.float32(np.nan))
    return ImpressionTable(
        names[user[rows[first]]], time[rows[first]], starts, item[rows], position[rows], labels, propensity
    )


def _find_last_before(
    key: NDArray[np.int64],
    time: NDArray[np.float64],
    event_key: NDArray[np.int64],
    event_time: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Find, for each event, the last of the rows sorted by (key, time) that has its key and is not later.

    Returns -1 for an event without such a row within HORIZON.
    """
    keys, times = np.concatenate([key, event_key]), np.concatenate([time, event_time])
    is_event = np.concatenate([np.zeros(len(key), np.bool_), np.ones(len(event_key), np.bool_)])
    order = np.lexsort((is_event, times, keys))
    last = np.maximum.accumulate(np.where(is_event[order], -1, order))
    rows = np.full(len(event_key), -1, np.int64)
    event_order = is_event[order]
    rows[order[event_order] - len(key)] = last[event_order]
    known = rows >= 0
    known[known] = (key[rows[known]] == event_key[known]) & (event_time[known] - time[rows[known]] <= HORIZON)
    return np.where(known, rows, -1)
