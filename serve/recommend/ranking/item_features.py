"""Facts: what features need to know of items, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.towers.features import ItemFeatures, Vocabulary
from serve.recommend.retrieval.retrievers import Items

Floats = NDArray[np.float32]
TAG_GROUPS = ("category", "brand", "attributes")
FILES = tuple(f"facts_{name}.npy" for name in ("price", "trend", "first_seen", "tags", "tag_starts", "tag_groups"))


@dataclass(frozen=True)
class Tags:
    """Which tags n items have: item i's are `numbers[starts[i]:starts[i + 1]]`; `group` [tags] is in TAG_GROUPS."""

    item_indices: NDArray[np.int64]
    starts: NDArray[np.int64]
    group: NDArray[np.int64]

    def of(self, items: Items) -> "Tags":
        lengths = self.starts[items + 1] - self.starts[items]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.starts[items] - starts[:-1], lengths) + np.arange(starts[-1])
        return Tags(self.item_indices[places], starts, self.group)


@dataclass(frozen=True)
class ItemSignals:
    """Of n items: `price` [n] in standard deviations of its logarithm, `trend` [n], `first_seen` [n] in epoch seconds.

    NaN where something is not known.
    """

    price: Floats
    trend: Floats
    first_seen: NDArray[np.float64]
    tags: Tags

    @classmethod
    def made(
        cls, vocabulary: Vocabulary, features: ItemFeatures, trend: Floats, first_seen: NDArray[np.float64]
    ) -> "ItemSignals":
        """From what the towers see of n items."""
        kinds = [tag.partition(":")[0] for tag in vocabulary.tags]
        groups = [TAG_GROUPS.index(kind if kind in TAG_GROUPS else "attributes") for kind in kinds]
        tags = Tags(features.tags, features.tag_starts, np.array([0, *groups]))  # tags are numbered from 1
        price = np.where(features.price[:, 2] > 0, features.price[:, 0], np.nan)
        return cls(price.astype(np.float32), trend, first_seen, tags)

    @classmethod
    def joined(cls, parts: Sequence["ItemSignals"]) -> "ItemSignals":
        """Those of several lots of items, one after the other; all of one vocabulary."""
        counts = np.concatenate([np.diff(part.tags.starts) for part in parts])
        tags = Tags(
            np.concatenate([part.tags.item_indices for part in parts]),
            np.concatenate([[0], np.cumsum(counts)]),
            parts[0].tags.group,
        )
        return cls(
            np.concatenate([part.price for part in parts]),
            np.concatenate([part.trend for part in parts]),
            np.concatenate([part.first_seen for part in parts]),
            tags,
        )

    def write(self, folder: Path) -> None:
        """Write them into a folder that is there."""
        tags = self.tags.item_indices, self.tags.starts, self.tags.group
        arrays: tuple[NDArray[Any], ...] = (self.price, self.trend, self.first_seen, *tags)
        for name, values in zip(FILES, arrays, strict=True):
            np.save(folder / name, values, allow_pickle=False)

    @classmethod
    def open(cls, folder: Path) -> "ItemSignals":
        """Map what `write` wrote."""
        price, trend, first_seen, *tags = (
            np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in FILES
        )
        return cls(price, trend, first_seen, Tags(*tags))

    def of(self, items: Items) -> "ItemSignals":
        """Those of m items, in the order given."""
        return ItemSignals(self.price[items], self.trend[items], self.first_seen[items], self.tags.of(items))

    def shared(self, others: "ItemSignals") -> Floats:
        """What share of each item's tags each of h other items has too, [n, h, groups]; 0 where there are none."""
        n, h = len(self.price), len(others.price)
        if not len(others.tags.item_indices):
            return np.zeros((n, h, len(TAG_GROUPS)), np.float32)
        known, place = np.unique(others.tags.item_indices, return_inverse=True)
        has = np.zeros((len(known) + 1, h), np.float32)  # [tags, h]; the last row is of tags that none of them has
        has[place, np.repeat(np.arange(h), np.diff(others.tags.starts))] = 1
        at = np.searchsorted(known, self.tags.item_indices)
        at[(at >= len(known)) | (known[np.minimum(at, len(known) - 1)] != self.tags.item_indices)] = len(known)
        owner = np.repeat(np.arange(n), np.diff(self.tags.starts))
        group = self.tags.group[self.tags.item_indices]
        slot = owner * len(TAG_GROUPS) + group
        counts = np.bincount(slot, minlength=n * len(TAG_GROUPS))
        order = np.argsort(slot, kind="stable")
        shared = np.zeros((n * len(TAG_GROUPS), h), np.float32)
        filled = np.flatnonzero(counts)
        if len(filled):
            shared[filled] = np.add.reduceat(has[at[order]], np.cumsum(counts)[filled] - counts[filled], axis=0)
            shared[filled] /= counts[filled, None].astype(np.float32)
        return shared.reshape(n, len(TAG_GROUPS), h).transpose(0, 2, 1)
