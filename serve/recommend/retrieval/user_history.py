"""A shopper as sources see one: what was done, the latest last, under the numbers of the items that answer now."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Event, Interactions, Signal
from embed.behaviour.interactions import KINDS, kind_of

DISLIKE = KINDS.index("dislike")


@dataclass(frozen=True)
class UserHistory:
    """A history of h interactions by time, as embed.behaviour.interactions defines them; nobody's is empty."""

    item: NDArray[np.int64]
    kind: NDArray[np.int64]
    time: NDArray[np.float64]
    weight: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.item)

    @classmethod
    def from_events(
        cls, events: Sequence[Event], item_index: Callable[[str], int | None], signal: Signal
    ) -> "UserHistory":
        """From a shopper's events in order of time; those of items without a number are left out.

        Merges what `embed.behaviour.interactions.collect` merges, for one shopper and without tables.
        """
        items: list[int] = []
        kinds: list[int] = []
        times: list[float] = []
        weights: list[float] = []
        for event in events:
            weight = signal.weight(event.type, event.value)
            kind, item = kind_of(event.type, weight), item_index(event.item_id)
            if kind is None or item is None:
                continue
            if items and items[-1] == item:
                stronger = kind == DISLIKE or (weight > weights[-1] and kinds[-1] != DISLIKE)
                if stronger and kinds[-1] != DISLIKE:
                    kinds[-1], weights[-1] = kind, weight
                continue
            items.append(item)
            kinds.append(kind)
            times.append(event.timestamp)
            weights.append(weight)
        return cls(np.array(items, np.int64), np.array(kinds, np.int64), np.array(times), np.array(weights, np.float32))

    @classmethod
    def of(cls, interactions: Interactions, user: int) -> "UserHistory":
        """From one shopper's interactions."""
        rows = slice(interactions.starts[user], interactions.starts[user + 1])
        return cls(
            interactions.item[rows].astype(np.int64),
            interactions.kind[rows].astype(np.int64),
            interactions.time[rows],
            interactions.weight[rows],
        )

    def first(self, count: int) -> "UserHistory":
        """The first `count` interactions."""
        return UserHistory(self.item[:count], self.kind[:count], self.time[:count], self.weight[:count])

    def last(self, most: int) -> "UserHistory":
        """The last `most` interactions."""
        if len(self) <= most:
            return self
        return UserHistory(self.item[-most:], self.kind[-most:], self.time[-most:], self.weight[-most:])
