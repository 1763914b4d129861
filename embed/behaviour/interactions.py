"""Interactions: events as arrays, in order of time for each user. Models learn from them and retrievers count them.

An event becomes an interaction by these rules:

- **Impressions** are not interactions: the user did nothing.
- **Unknown items** are pending: their events stay in the event log, are counted, and are used once the catalogue has
  the item.
- **Consecutive events** of a user on one item (click, view, cart, purchase) are merged into one interaction: the
  strongest event, at the time of the first.
- **Dislikes and low ratings** are interactions of weight 0: models may read them, but never learn to recommend them.
- **Bots and floods**: only the last `limit` interactions of each user are kept.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embed.behaviour.event import EVENT_TYPES, Signal
from embed.ragged import make_offsets, range_indices

KINDS = ("view", "click", "cart", "purchase", "rating", "low rating", "dislike")
"""Kinds of interactions. A rating below `Signal.liked_from` is a kind of its own."""

MAX_PER_USER = 1000


@dataclass(frozen=True)
class Interactions:
    """n interactions of m users with items 0 to `items` - 1, sorted by user and then by time.

    Rows `starts[u]` to `starts[u + 1]` - 1 belong to user u. `kind` [n] is an index in KINDS, `time` [n] is in epoch
    seconds, and `weight` [n] is the strength as a positive signal, 0 for an interaction that is not one.
    """

    users: NDArray[np.object_]  # [m], ids
    items: int
    starts: NDArray[np.int64]  # [m + 1]
    item: NDArray[np.int32]  # [n]
    kind: NDArray[np.int8]  # [n]
    time: NDArray[np.float64]  # [n]
    weight: NDArray[np.float32]  # [n]

    def __len__(self) -> int:
        return len(self.item)

    @property
    def user(self) -> NDArray[np.int64]:
        """The index of each interaction's user, [n]."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.starts))

    def where(self, mask: NDArray[np.bool_]) -> "Interactions":
        """Return the interactions selected by a mask [n]; the users stay the same."""
        starts = make_offsets(mask)[self.starts]
        return Interactions(
            self.users, self.items, starts, self.item[mask], self.kind[mask], self.time[mask], self.weight[mask]
        )

    def select_users(self, users: NDArray[np.int64]) -> "Interactions":
        """Return the interactions of some users, by index, in the order given."""
        lengths = np.diff(self.starts)[users]
        starts, rows = make_offsets(lengths), range_indices(self.starts[users], lengths)
        return Interactions(
            self.users[users], self.items, starts, self.item[rows], self.kind[rows], self.time[rows], self.weight[rows]
        )

    def last(self, limit: int) -> "Interactions":
        """Return at most the last `limit` interactions of each user."""
        position_from_end = np.repeat(self.starts[1:], np.diff(self.starts)) - np.arange(len(self))
        return self.where(position_from_end <= limit)


@dataclass(frozen=True)
class InteractionCounts:
    """Counts of events by outcome: `events` = interactions + impressions + pending + merged + cut.

    `pending_items` is the number of items that the catalogue lacks; `cut` counts interactions beyond a user's limit.
    """

    events: int
    interactions: int
    impressions: int
    pending: int
    pending_items: int
    merged: int
    cut: int


def collect_interactions(
    batches: Iterable[Any], item_ids: Any, signal: Signal | None = None, limit: int = MAX_PER_USER
) -> tuple[Interactions, InteractionCounts]:
    """Turn cleaned events into interactions.

    Args:
        batches: Events, as pyarrow.RecordBatches with the columns of EVENT_SCHEMA.
        item_ids: Ids of the catalogue's items, as pyarrow strings [items].
        signal: Weights of the events.
        limit: Maximum of interactions per user.

    Returns:
        The interactions, and counts of what happened to the events.
    """
    signal = signal or Signal()
    names = ["user_id", "item_id", "type", "timestamp", "value"]
    tables = []
    events = impressions = 0
    for batch in batches:
        table = pa.table({name: batch.column(name) for name in names})
        events += len(table)
        table = table.filter(pc.not_equal(table["type"], "impression"))
        impressions += batch.num_rows - len(table)
        tables.append(table)
    schema = pa.schema([(name, pa.float64() if name in ("timestamp", "value") else pa.string()) for name in names])
    table = pa.concat_tables([*tables, schema.empty_table()])
    index = pc.index_in(table["item_id"], value_set=item_ids)
    in_catalogue = pc.is_valid(index)
    unknown = table.filter(pc.invert(in_catalogue))
    table, index = table.filter(in_catalogue), index.filter(in_catalogue)
    encoded = pc.dictionary_encode(table["user_id"].combine_chunks())
    user = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    item = index.to_numpy().astype(np.int32)
    time = table["timestamp"].to_numpy()
    kind, weight = _kinds(table, signal)
    order = np.lexsort((time, user))  # events of one second stay in order of arrival
    user, item, time, kind, weight = user[order], item[order], time[order], kind[order], weight[order]

    first = np.ones(len(item), np.bool_)
    first[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    groups = np.cumsum(first) - 1
    # The strongest event represents its group: a dislike before all others, and the first of equals.
    strength = np.where(kind == KINDS.index("dislike"), np.inf, weight)
    strongest = np.lexsort((np.arange(len(item)), -strength, groups))[np.flatnonzero(first)]
    users = encoded.dictionary.to_numpy(zero_copy_only=False)
    starts = make_offsets(np.bincount(user[first], minlength=len(users)))
    merged = Interactions(users, len(item_ids), starts, item[first], kind[strongest], time[first], weight[strongest])
    kept = merged.last(limit)
    return kept, InteractionCounts(
        events,
        len(kept),
        impressions,
        len(unknown),
        pc.count_distinct(unknown["item_id"]).as_py(),
        len(item) - len(merged),
        len(merged) - len(kept),
    )


def kind_index(type_: str, weight: float) -> int | None:
    """Return the index in KINDS of an event with this type and weight, or None for an impression."""
    if type_ == "impression":
        return None
    return KINDS.index("low rating" if type_ == "rating" and weight == 0 else type_)


def _kinds(table: Any, signal: Signal) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the kind and the weight of each event."""
    types = pc.index_in(table["type"], value_set=pa.array(EVENT_TYPES)).to_numpy()
    rated = types == EVENT_TYPES.index("rating")
    liked = np.nan_to_num(table["value"].to_numpy(), nan=-np.inf) >= signal.liked_from
    weights = np.array([signal.weight(type_, np.inf) for type_ in EVENT_TYPES], np.float32)
    weight = np.where(rated & ~liked, 0, weights[types])
    kinds = np.array([-1 if type_ == "impression" else KINDS.index(type_) for type_ in EVENT_TYPES])
    kind = np.where(rated & ~liked, KINDS.index("low rating"), kinds[types])
    return kind.astype(np.int8), weight.astype(np.float32)
