"""Item signals: what features need to know about items, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.towers.tower_features import ItemFeatures, Vocabulary
from serve.core.ragged import ragged_indices, ragged_offsets
from serve.recommend.retrieval.retriever import Items

Floats = NDArray[np.float32]
TAG_GROUPS = ("category", "brand", "attributes")
FILES = tuple(f"facts_{name}.npy" for name in ("price", "trend", "first_seen", "tags", "tag_starts", "tag_groups"))


@dataclass(frozen=True)
class ItemTags:
    """The tags of n items: item i has `ids[starts[i]:starts[i + 1]]`. `group` is each tag's index in TAG_GROUPS."""

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    group: NDArray[np.int64]

    def take(self, items: Items) -> "ItemTags":
        """Return the tags of m items, in that order."""
        lengths = self.starts[items + 1] - self.starts[items]
        rows = ragged_indices(self.starts[items], lengths)
        return ItemTags(self.ids[rows], ragged_offsets(lengths), self.group)


@dataclass(frozen=True)
class ItemSignals:
    """The signals of n items; NaN for unknown.

    Attributes:
        price: In standard deviations of its logarithm, [n].
        trend: Recent relative to overall demand, [n], see serve.recommend.retrieval.popularity.
        first_seen: When the item came into the catalogue, epoch seconds, [n].
        tags: Category, brand and attributes.
    """

    price: Floats
    trend: Floats
    first_seen: NDArray[np.float64]
    tags: ItemTags

    @classmethod
    def build(
        cls, vocabulary: Vocabulary, features: ItemFeatures, trend: Floats, first_seen: NDArray[np.float64]
    ) -> "ItemSignals":
        """Build the signals of n items from the inputs of the towers."""
        kinds = [tag.partition(":")[0] for tag in vocabulary.tags]
        groups = [TAG_GROUPS.index(kind if kind in TAG_GROUPS else "attributes") for kind in kinds]
        tags = ItemTags(features.tags, features.tag_starts, np.array([0, *groups]))  # tags are numbered from 1
        price = np.where(features.price[:, 2] > 0, features.price[:, 0], np.nan)
        return cls(price.astype(np.float32), trend, first_seen, tags)

    @classmethod
    def concatenate(cls, parts: Sequence["ItemSignals"]) -> "ItemSignals":
        """Join the signals of several batches of items, all of one vocabulary."""
        counts = np.concatenate([np.diff(part.tags.starts) for part in parts])
        tags = ItemTags(
            np.concatenate([part.tags.ids for part in parts]),
            ragged_offsets(counts),
            parts[0].tags.group,
        )
        return cls(
            np.concatenate([part.price for part in parts]),
            np.concatenate([part.trend for part in parts]),
            np.concatenate([part.first_seen for part in parts]),
            tags,
        )

    def write(self, folder: Path) -> None:
        """Write the signals into a folder that exists."""
        tags = self.tags.ids, self.tags.starts, self.tags.group
        arrays: tuple[NDArray[Any], ...] = (self.price, self.trend, self.first_seen, *tags)
        for name, values in zip(FILES, arrays, strict=True):
            np.save(folder / name, values, allow_pickle=False)

    @classmethod
    def open(cls, folder: Path) -> "ItemSignals":
        """Map what `write` wrote."""
        price, trend, first_seen, *tags = (
            np.asarray(np.load(folder / name, mmap_mode="r", allow_pickle=False)) for name in FILES
        )
        return cls(price, trend, first_seen, ItemTags(*tags))

    def take(self, items: Items) -> "ItemSignals":
        """Return the signals of m items, in that order."""
        return ItemSignals(self.price[items], self.trend[items], self.first_seen[items], self.tags.take(items))

    def shared_tags(self, others: "ItemSignals") -> Floats:
        """Return which share of each item's tags each of h other items has too, [n, h, groups]; 0 without tags."""
        n, h = len(self.price), len(others.price)
        if not len(others.tags.ids):
            return np.zeros((n, h, len(TAG_GROUPS)), np.float32)
        known, row = np.unique(others.tags.ids, return_inverse=True)
        has = np.zeros((len(known) + 1, h), np.float32)  # [tags, h]; the last row is of tags that none of them has
        has[row, np.repeat(np.arange(h), np.diff(others.tags.starts))] = 1
        at = np.searchsorted(known, self.tags.ids)
        at[(at >= len(known)) | (known[np.minimum(at, len(known) - 1)] != self.tags.ids)] = len(known)
        owner = np.repeat(np.arange(n), np.diff(self.tags.starts))
        group = self.tags.group[self.tags.ids]
        slot = owner * len(TAG_GROUPS) + group
        counts = np.bincount(slot, minlength=n * len(TAG_GROUPS))
        order = np.argsort(slot, kind="stable")
        shared = np.zeros((n * len(TAG_GROUPS), h), np.float32)
        filled = np.flatnonzero(counts)
        if len(filled):
            shared[filled] = np.add.reduceat(has[at[order]], np.cumsum(counts)[filled] - counts[filled], axis=0)
            shared[filled] /= counts[filled, None].astype(np.float32)
        return shared.reshape(n, len(TAG_GROUPS), h).transpose(0, 2, 1)
