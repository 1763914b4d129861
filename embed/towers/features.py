"""What the item tower sees of items: content vectors, tags, price, and which row of the id embedding is theirs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embed.catalogue import Item

PRICE_PARTS = 3  # level, its square, and whether there is a price
RAREST_TAG = 2  # items that a tag is on, at the least
MAX_TAGS = 50_000
MAX_VALUES = 8  # an attribute of more values says little


@dataclass(frozen=True)
class Content:
    """Unit vectors [rows, dim] of a space, and the row of each of n items, -1 for an item that has none."""

    vectors: NDArray[np.float32]
    row: NDArray[np.int64]

    @classmethod
    def first_rows(cls, vectors: NDArray[np.float32], owners: NDArray[np.int32], items: int) -> "Content":
        """Of rows of `owners` [rows], never decreasing, the first of each item: its main image, its headline."""
        row = np.full(items, -1, np.int64)
        found, first = np.unique(owners, return_index=True)
        row[found] = first
        return cls(vectors, row)

    def of(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of m items, [m, dim], zero where there is none."""
        rows = self.row[items]
        found = np.asarray(self.vectors[rows.clip(min=0)], np.float32)
        found[rows < 0] = 0
        return found


@dataclass(frozen=True)
class ItemFeatures:
    """Features of n items.

    `identity` [n] is the row of the id embedding, 0 for an item that training never saw. `tags` are numbers from 1 on,
    those of item i being `tags[tag_starts[i]:tag_starts[i + 1]]`. `price` is [n, PRICE_PARTS].
    """

    identity: NDArray[np.int64]
    content: Mapping[str, Content]
    tags: NDArray[np.int64]
    tag_starts: NDArray[np.int64]
    price: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.identity)

    def rows(self, items: NDArray[np.int64], device: str = "cpu") -> "FeatureRows":
        """The features of m items as tensors."""
        lengths = self.tag_starts[items + 1] - self.tag_starts[items]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        places = np.repeat(self.tag_starts[items] - starts[:-1], lengths) + np.arange(starts[-1])

        def tensor(values: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(values).to(device, non_blocking=True)

        return FeatureRows(
            tensor(self.identity[items]),
            {name: tensor(content.of(items)) for name, content in self.content.items()},
            tensor(self.tags[places]),
            tensor(starts[:-1]),
            tensor(self.price[items]),
        )


@dataclass(frozen=True)
class FeatureRows:
    """Features of m items as the item tower takes them; the tags of item i begin at `tag_starts[i]`."""

    identity: Tensor
    content: Mapping[str, Tensor]
    tags: Tensor
    tag_starts: Tensor
    price: Tensor


@dataclass(frozen=True)
class Vocabulary:
    """How items become features: what was learned of the catalogue that the towers were trained with.

    `spaces` are the dimension and fingerprint of each content space; `tags` their names in order of their numbers.
    """

    item_ids: Sequence[str] = ()
    tags: Sequence[str] = ()
    spaces: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    price_mean: float = 0.0
    price_spread: float = 0.0  # 0 where no item has a price

    @classmethod
    def learn(cls, items: Iterable[Item], spaces: Mapping[str, tuple[int, str]]) -> "Vocabulary":
        """The vocabulary of a catalogue; rare tags, which teach nothing, are left out."""
        ids: list[str] = []
        counts: Counter[str] = Counter()
        logs: list[float] = []
        for item in items:
            ids.append(item.item_id)
            counts.update(tags_of(item))
            if item.price:
                logs.append(float(np.log(item.price)))
        tags = [tag for tag, count in counts.most_common(MAX_TAGS) if count >= RAREST_TAG]
        mean, spread = (float(np.mean(logs)), max(float(np.std(logs)), 1e-3)) if logs else (0.0, 0.0)
        return cls(ids, tags, dict(spaces), mean, spread)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.item_ids, start=1)}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {tag: number for number, tag in enumerate(self.tags, start=1)}

    def features(self, items: Iterable[Item], content: Mapping[str, Content]) -> ItemFeatures:
        """The features of n items, whose content is given for every space of the vocabulary."""
        identity: list[int] = []
        tags: list[int] = []
        starts = [0]
        prices: list[tuple[float, float, float]] = []
        for item in items:
            identity.append(self._rows.get(item.item_id, 0))
            tags += [self._numbers[tag] for tag in tags_of(item) if tag in self._numbers]
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


def tags_of(item: Item) -> Iterator[str]:
    """What an item is called by: each level of its category, its brand, the values of its attributes."""
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
