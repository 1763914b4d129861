"""The history of a user as retrievers see it: interactions by time, with the item indices of the active snapshot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Event, Interactions, Signal
from embed.behaviour.interactions import KINDS, kind_index

DISLIKE = KINDS.index("dislike")


@dataclass(frozen=True)
class UserHistory:
    """A history of h interactions by time, as embed.behaviour.interactions defines them; empty for an unknown user."""

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
        """Build the history from a user's events in order of time; skip events of items that have no index.

        It merges events as `embed.behaviour.interactions.collect` does, for one user and without tables.
        """
        items: list[int] = []
        kinds: list[int] = []
        times: list[float] = []
        weights: list[float] = []
        for event in events:
            weight = signal.weight(event.type, event.value)
            kind, item = kind_index(event.type, weight), item_index(event.item_id)
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
    def from_interactions(cls, interactions: Interactions, user: int) -> "UserHistory":
        """Take the history of one user of a table of interactions."""
        rows = slice(interactions.starts[user], interactions.starts[user + 1])
        return cls(
            interactions.item[rows].astype(np.int64),
            interactions.kind[rows].astype(np.int64),
            interactions.time[rows],
            interactions.weight[rows],
        )

    def first(self, count: int) -> "UserHistory":
        """Return the first `count` interactions."""
        return UserHistory(self.item[:count], self.kind[:count], self.time[:count], self.weight[:count])

    def last(self, count: int) -> "UserHistory":
        """Return the last `count` interactions."""
        if len(self) <= count:
            return self
        return UserHistory(self.item[-count:], self.kind[-count:], self.time[-count:], self.weight[-count:])
