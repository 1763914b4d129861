"""Interactions: events as arrays, each shopper's in order of time; what models learn from and sources count.

An event becomes an interaction by these rules:

- **Impressions** are none: nothing was done.
- **Unknown items** are parked: they stay in the event log, are counted, and take part once the catalogue has them.
- **Signs of one act** are one interaction: what follows on the same item at once (click, view, cart, purchase) is
  merged into the strongest of it, at the time of the first.
- **Dislikes and low ratings** are interactions of weight 0: the model may see them, and nothing learns to propose them.
- **Robots and floods** are cut to their last `most` interactions a shopper.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embed.behaviour.event import EVENT_TYPES, Signal

KINDS = ("view", "click", "cart", "purchase", "rating", "low rating", "dislike")
"""What an interaction is. A rating below what counts as liked is a kind of its own."""

MOST = 1000


@dataclass(frozen=True)
class Interactions:
    """n interactions of m shoppers with items 0 to `items` - 1, by shopper and then by time.

    Those of shopper u are rows `starts[u]` to `starts[u + 1]` - 1. `kind` [n] numbers KINDS, `time` [n] is in epoch
    seconds, `weight` [n] says how much each tells for its item, 0 for what does not.
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
        """The number of each interaction's shopper, [n]."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.starts))

    def where(self, mask: NDArray[np.bool_]) -> "Interactions":
        """Those that the mask [n] holds for, of the same shoppers."""
        starts = np.concatenate([[0], np.cumsum(mask)])[self.starts]
        return Interactions(
            self.users, self.items, starts, self.item[mask], self.kind[mask], self.time[mask], self.weight[mask]
        )

    def of(self, users: NDArray[np.int64]) -> "Interactions":
        """Those of some shoppers, in the order given."""
        lengths = np.diff(self.starts)[users]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.repeat(self.starts[users] - starts[:-1], lengths) + np.arange(starts[-1])
        return Interactions(
            self.users[users], self.items, starts, self.item[rows], self.kind[rows], self.time[rows], self.weight[rows]
        )

    def last(self, most: int) -> "Interactions":
        """The last `most` of each shopper."""
        place_from_end = np.repeat(self.starts[1:], np.diff(self.starts)) - np.arange(len(self))
        return self.where(place_from_end <= most)


@dataclass(frozen=True)
class Collected:
    """What became of the events: `events` = interactions + impressions + parked + merged + cut."""

    events: int
    interactions: int
    impressions: int
    pending: int
    pending_items: int
    merged: int
    cut: int


def collect(
    batches: Iterable[Any], item_ids: Any, signal: Signal | None = None, most: int = MOST
) -> tuple[Interactions, Collected]:
    """Interactions from pyarrow.RecordBatches of EVENT_SCHEMA with the items of a catalogue (pyarrow strings, [items]).

    Raises nothing on its own: events were cleaned when they came in.
    """
    signal = signal or Signal()
    wanted = ["user_id", "item_id", "type", "timestamp", "value"]
    tables = []
    events = impressions = 0
    for batch in batches:
        table = pa.table({name: batch.column(name) for name in wanted})
        events += len(table)
        table = table.filter(pc.not_equal(table["type"], "impression"))
        impressions += batch.num_rows - len(table)
        tables.append(table)
    schema = pa.schema([(name, pa.float64() if name in ("timestamp", "value") else pa.string()) for name in wanted])
    table = pa.concat_tables([*tables, schema.empty_table()])
    place = pc.index_in(table["item_id"], value_set=item_ids)
    known = pc.is_valid(place)
    unknown = table.filter(pc.invert(known))
    table, place = table.filter(known), place.filter(known)
    encoded = pc.dictionary_encode(table["user_id"].combine_chunks())
    of_user = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    item = place.to_numpy().astype(np.int32)
    time = table["timestamp"].to_numpy()
    kind, weight = _kinds(table, signal)
    order = np.lexsort((time, of_user))  # events of one second stay in the order they came
    of_user, item, time, kind, weight = of_user[order], item[order], time[order], kind[order], weight[order]

    first = np.ones(len(item), np.bool_)
    first[1:] = (of_user[1:] != of_user[:-1]) | (item[1:] != item[:-1])
    groups = np.cumsum(first) - 1
    # The strongest of a group speaks for it, a dislike before anything else, the first of equals.
    strength = np.where(kind == KINDS.index("dislike"), np.inf, weight)
    strongest = np.lexsort((np.arange(len(item)), -strength, groups))[np.flatnonzero(first)]
    users = encoded.dictionary.to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(np.bincount(of_user[first], minlength=len(users)))])
    merged = Interactions(users, len(item_ids), starts, item[first], kind[strongest], time[first], weight[strongest])
    kept = merged.last(most)
    return kept, Collected(
        events,
        len(kept),
        impressions,
        len(unknown),
        pc.count_distinct(unknown["item_id"]).as_py(),
        len(item) - len(merged),
        len(merged) - len(kept),
    )


def kind_of(type_: str, weight: float) -> int | None:
    """The number in KINDS of an event of this type and weight, or None for an impression."""
    if type_ == "impression":
        return None
    return KINDS.index("low rating" if type_ == "rating" and weight == 0 else type_)


def _kinds(table: Any, signal: Signal) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Kind and weight of each event."""
    numbers = pc.index_in(table["type"], value_set=pa.array(EVENT_TYPES)).to_numpy()
    rated = numbers == EVENT_TYPES.index("rating")
    liked = np.nan_to_num(table["value"].to_numpy(), nan=-np.inf) >= signal.liked_from
    weights = np.array([signal.weight(type_, np.inf) for type_ in EVENT_TYPES], np.float32)
    weight = np.where(rated & ~liked, 0, weights[numbers])
    kinds = np.array([-1 if type_ == "impression" else KINDS.index(type_) for type_ in EVENT_TYPES])
    kind = np.where(rated & ~liked, KINDS.index("low rating"), kinds[numbers])
    return kind.astype(np.int8), weight.astype(np.float32)
