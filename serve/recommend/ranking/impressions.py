"""Lists that were shown to shoppers, and what came of each item in them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embed.behaviour import EVENT_SCHEMA, Signal
from serve.core.ranking_settings import HEADS

HORIZON = 86_400.0  # seconds within which an act is put down to a list
INTERACTIONS = {
    "click": ("view", "click", "cart", "purchase"),
    "cart": ("cart", "purchase"),
    "purchase": ("purchase",),
    "rating": ("rating",),
}


def heads_of_event(type_: str, value: float | None, liked_from: float) -> list[str]:
    """The heads whose outcome an act is; a rating is one only from `liked_from` on."""
    if type_ == "rating" and (value is None or value < liked_from):
        return []
    return [head for head, acts in INTERACTIONS.items() if type_ in acts]


@dataclass(frozen=True)
class ImpressionTable:
    """n items shown in l lists, list by list: list i is rows `starts[i]` to `starts[i + 1]` - 1.

    Of each list its shopper and time [l]; of each row the item, the place in its list from 0 (NaN where the log does
    not say), whether each of HEADS came of it, [n, heads], and how likely it was to be shown there (NaN likewise).
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
    """The lists shown from `since` until before `until` (epoch seconds), from pyarrow.RecordBatches of EVENT_SCHEMA.

    Impressions of one request, or of one shopper at one time, are a list. An act is put down to the latest showing of
    its item to its shopper before it. Items that the catalogue does not have are left out.
    """
    wanted = ["user_id", "item_id", "type", "timestamp", "value", "request_id", "position"]
    tables = [pa.table({name: batch.column(name) for name in wanted}) for batch in batches]
    schema = pa.schema([EVENT_SCHEMA.field(name).with_nullable(True) for name in wanted])
    table = pa.concat_tables([*tables, schema.empty_table()])
    inside = pc.and_(pc.greater_equal(table["timestamp"], since), pc.less(table["timestamp"], until + HORIZON))
    table = table.filter(inside)
    number = pc.index_in(table["item_id"], value_set=item_ids)
    table, number = table.filter(pc.is_valid(number)), number.filter(pc.is_valid(number))
    encoded = pc.dictionary_encode(table["user_id"].combine_chunks())
    user = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    names = encoded.dictionary.to_numpy(zero_copy_only=False)
    item, time = number.to_numpy().astype(np.int64), table["timestamp"].to_numpy()
    key = user * max(1, len(item_ids)) + item
    is_shown = pc.equal(table["type"], "impression").to_numpy(zero_copy_only=False) & (time < until)

    order = np.lexsort((time[is_shown], key[is_shown]))
    rows = np.flatnonzero(is_shown)[order]  # of impressions, by shopper and item and then by time
    labels = np.zeros((len(rows), len(HEADS)), np.bool_)
    types = table["type"].to_numpy(zero_copy_only=False)
    liked = np.nan_to_num(table["value"].to_numpy(), nan=-np.inf) >= signal.liked_from
    for head, name in enumerate(HEADS):
        acts = np.isin(types, INTERACTIONS[name]) & (liked if name == "rating" else True)
        acts_at = np.flatnonzero(acts)
        place = _last_before(key[rows], time[rows], key[acts_at], time[acts_at])
        known = place >= 0
        labels[place[known], head] = True
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


def _last_before(
    key: NDArray[np.int64], time: NDArray[np.float64], of: NDArray[np.int64], at: NDArray[np.float64]
) -> NDArray[np.int64]:
    """For each (of, at) the last of the rows sorted by (key, time) that has its key and is not later; -1 for none."""
    both = np.concatenate([key, of]), np.concatenate([time, at])
    is_interaction = np.concatenate([np.zeros(len(key), np.bool_), np.ones(len(of), np.bool_)])
    order = np.lexsort((is_interaction, both[1], both[0]))
    last = np.maximum.accumulate(np.where(is_interaction[order], -1, order))
    found = np.full(len(of), -1, np.int64)
    acts = is_interaction[order]
    found[order[acts] - len(key)] = last[acts]
    known = found >= 0
    known[known] = (key[found[known]] == of[known]) & (at[known] - time[found[known]] <= HORIZON)
    return np.where(known, found, -1)
