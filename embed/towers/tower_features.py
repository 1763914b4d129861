"""Item features of the item tower: content vectors, tags, price, and the row of the id embedding."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embed.catalogue import Item
from embed.ragged import make_offsets, range_indices

PRICE_PARTS = 3  # level, its square, and whether there is a price
MIN_TAG_ITEMS = 2  # minimum of items that have a tag
MAX_TAGS = 50_000
MAX_VALUES = 8  # an attribute with more values says little about an item


@dataclass(frozen=True)
class Content:
    """Unit vectors [rows, dim] of a space, and the row of each of n items, -1 for an item without a vector."""

    vectors: NDArray[np.float32]
    row: NDArray[np.int64]

    @classmethod
    def first_rows(cls, vectors: NDArray[np.float32], owners: NDArray[np.int32], items: int) -> "Content":
        """Assign each item its first row: its main image or its headline. `owners` [rows] never decrease."""
        row = np.full(items, -1, np.int64)
        present, first = np.unique(owners, return_index=True)
        row[present] = first
        return cls(vectors, row)

    def gather(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of m items, [m, dim]; zero for an item without one."""
        rows = self.row[items]
        vectors = np.asarray(self.vectors[rows.clip(min=0)], np.float32)
        vectors[rows < 0] = 0
        return vectors


@dataclass(frozen=True)
class ItemFeatures:
    """Features of n items.

    `identity` [n] is the row of the id embedding, 0 for an item that was not in training. `tags` are tag ids from 1 on;
    those of item i are `tags[tag_starts[i]:tag_starts[i + 1]]`. `price` is [n, PRICE_PARTS].
    """

    identity: NDArray[np.int64]
    content: Mapping[str, Content]
    tags: NDArray[np.int64]
    tag_starts: NDArray[np.int64]
    price: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.identity)

    def rows(self, items: NDArray[np.int64], device: str = "cpu") -> "FeatureRows":
        """Return the features of m items as tensors."""
        lengths = self.tag_starts[items + 1] - self.tag_starts[items]
        tags = range_indices(self.tag_starts[items], lengths)

        def tensor(values: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(values).to(device, non_blocking=True)

        return FeatureRows(
            tensor(self.identity[items]),
            {name: tensor(content.gather(items)) for name, content in self.content.items()},
            tensor(self.tags[tags]),
            tensor(make_offsets(lengths)[:-1]),
            tensor(self.price[items]),
        )


@dataclass(frozen=True)
class FeatureRows:
    """Features of m items as tensors; the tags of item i begin at `tag_starts[i]`."""

    identity: Tensor
    content: Mapping[str, Tensor]
    tags: Tensor
    tag_starts: Tensor
    price: Tensor


@dataclass(frozen=True)
class Vocabulary:
    """How items become features, as learned from the catalogue that the towers were trained with.

    `spaces` are dimension and fingerprint of each content space; `tags` are names in order of their ids.
    """

    item_ids: Sequence[str] = ()
    tags: Sequence[str] = ()
    spaces: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    price_mean: float = 0.0
    price_spread: float = 0.0  # 0 if no item has a price

    @classmethod
    def learn(cls, items: Iterable[Item], spaces: Mapping[str, tuple[int, str]]) -> "Vocabulary":
        """Learn the vocabulary of a catalogue. Rare tags, from which nothing can be learned, are excluded."""
        ids: list[str] = []
        counts: Counter[str] = Counter()
        logs: list[float] = []
        for item in items:
            ids.append(item.item_id)
            counts.update(item_tags(item))
            if item.price:
                logs.append(float(np.log(item.price)))
        tags = [tag for tag, count in counts.most_common(MAX_TAGS) if count >= MIN_TAG_ITEMS]
        mean, spread = (float(np.mean(logs)), max(float(np.std(logs)), 1e-3)) if logs else (0.0, 0.0)
        return cls(ids, tags, dict(spaces), mean, spread)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids, start=1)}

    @cached_property
    def _tag_ids(self) -> dict[str, int]:
        return {tag: tag_id for tag_id, tag in enumerate(self.tags, start=1)}

    def features(self, items: Iterable[Item], content: Mapping[str, Content]) -> ItemFeatures:
        """Return the features of n items; `content` must have every space of the vocabulary."""
        identity: list[int] = []
        tags: list[int] = []
        starts = [0]
        prices: list[tuple[float, float, float]] = []
        for item in items:
            identity.append(self._rows.get(item.item_id, 0))
            tags += [self._tag_ids[tag] for tag in item_tags(item) if tag in self._tag_ids]
            starts.append(len(tags))
            level = 0.0
            if item.price and self.price_spread:
                level = float(np.clip((np.log(item.price) - self.price_mean) / self.price_spread, -4, 4))
            prices.append((level, level * level, float(bool(item.price))))
        return ItemFeatures(
            np.array(identity, np.int64),
            {name: content[name] for name in self.spaces},
            np.array(tags, np.int64),
            np.array(starts, np.int64),
            np.array(prices, np.float32).reshape(-1, PRICE_PARTS),
        )


def item_tags(item: Item) -> Iterator[str]:
    """Yield the tags of an item: each level of its category, its brand, the values of its attributes."""
    parts = (item.category or "").split("/")
    for level in range(1, len(parts) + 1):
        if parts[level - 1]:
            yield f"category:{'/'.join(parts[:level])}"
    if item.brand:
        yield f"brand:{item.brand}"
    for name, values in item.attributes.items():
        if len(values) <= MAX_VALUES:
            for value in values:
                yield f"{name}:{value}"
