"""What answers at one instant: a release, and the live changes on top of it.

A View never changes; each batch of changes makes the next one. An item that gets other vectors gets a number above all
others and its old number is gone; one that only gets another price keeps its number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embed.catalogue import Item, as_batch
from embed.towers.features import Content
from index.lexical import AddedTexts
from index.protocol import VectorIndex
from index.selection import Selection, Selections
from index.space import Vectors
from serve.moderation.policy import ContentPolicy
from serve.recommend.ranking.item_features import ItemSignals
from serve.recommend.retrieval.retrievers import ItemRenumbering
from serve.release.release import Release, number_in
from serve.search.facets import counted
from serve.search.filters import Filter, Mask
from serve.search.vocabulary import ParsedText


class ItemVectors(NamedTuple):
    """The rows of one item in one space: which image or text each is, [n], and its vector, [n, dim]."""

    labels: Sequence[int]
    vectors: Vectors


@dataclass(frozen=True)
class ChangedItems:
    """Items that changed together: their numbers and the items themselves."""

    item_indices: NDArray[np.int64]
    items: tuple[Item, ...]

    @cached_property
    def table(self) -> Any:
        return pa.Table.from_batches([as_batch(self.items)])


class Snapshot:
    """A release with live changes on top, as they are at one instant; `position` is the last change in it."""

    def __init__(
        self,
        release: Release,
        position: int = 0,
        items: int | None = None,
        spaces: Mapping[str, VectorIndex] | None = None,
        tower: VectorIndex | None = None,
        item_indices: Mapping[str, int | None] | None = None,
        changed: Mapping[int, Item] | None = None,
        chunks: Sequence[ChangedItems] = (),
        deleted: NDArray[np.int64] | None = None,
        texts: AddedTexts | None = None,
        hidden: Mapping[int, str] | None = None,
        policy: ContentPolicy = ContentPolicy(),  # noqa: B008  immutable
    ) -> None:
        self.release = release
        self.position = position
        self.items = release.manifest.items if items is None else items
        self.spaces: Mapping[str, VectorIndex] = release.spaces if spaces is None else spaces
        self.tower = release.tower if tower is None else tower
        self._numbers, self._changed = item_indices or {}, changed or {}
        self._chunks = tuple(chunks)
        self.deleted = np.empty(0, np.int64) if deleted is None else deleted
        self._texts = texts
        self.hidden = hidden or {}
        """The numbers of the items that are there and must not be shown, with the reason; `deleted` has them too."""
        self.policy = policy
        self._selections = Selections()
        self._facts: dict[int, ItemSignals] = {}  # of changed items, as they are asked for

    def item_index(self, item_id: str) -> int | None:
        """The number of an item that is there and may be shown, or None."""
        item_index = self._there(item_id)
        return None if item_index in self.hidden else item_index

    def why_hidden(self, item_id: str) -> str | None:
        """Why content review hides an item, None where it does not."""
        item_index = self._there(item_id)
        return None if item_index is None else self.hidden.get(item_index)

    def _there(self, item_id: str) -> int | None:
        return self._numbers[item_id] if item_id in self._numbers else self.release.ids.item_index(item_id)

    def text(self, item_index: int) -> str:
        """The id of an item's number."""
        if item_index < self.release.manifest.items:
            return self.release.ids.text(item_index)
        return self._changed[item_index].item_id

    def item(self, item_index: int) -> Item:
        """What the catalogue says of an item now."""
        return self._changed.get(item_index) or self.release.item(item_index)

    def signals_of(self, item_indices: NDArray[np.int64]) -> ItemSignals:
        """What ranking knows of m items now; raises AssertionError in a release without towers."""
        behaviour = self.release.behaviour
        assert behaviour.items is not None and behaviour.towers is not None  # noqa: S101, PT018
        changed = np.array([item_index in self._changed for item_index in item_indices.tolist()], np.bool_)
        if not changed.any():
            return behaviour.items.of(item_indices)
        parts = [
            behaviour.items.of(item_indices[~changed]),
            *map(self._signals_of_changed, item_indices[changed].tolist()),
        ]
        order = np.concatenate([np.flatnonzero(~changed), np.flatnonzero(changed)])
        return ItemSignals.joined(parts).of(np.argsort(order))

    def _signals_of_changed(self, item_index: int) -> ItemSignals:
        if item_index not in self._facts:
            behaviour, item = self.release.behaviour, self._changed[item_index]
            assert behaviour.towers is not None  # noqa: S101
            vocabulary = behaviour.towers.vocabulary
            nothing = {
                space: Content(np.zeros((1, dim), np.float32), np.array([-1]))
                for space, (dim, _) in vocabulary.spaces.items()
            }
            was = -1 if self.numbering is None else int(self.numbering.before[item_index])
            trend = behaviour.trend[was] if was >= 0 else np.nan
            seen = np.nan if item.updated_at is None else item.updated_at
            self._facts[item_index] = ItemSignals.made(
                vocabulary, vocabulary.features([item], nothing), np.array([trend], np.float32), np.array([seen])
            )
        return self._facts[item_index]

    def attribute_numbers(self, name: str, item_indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """An attribute of m items as a number now, [m]; NaN where there is none."""
        of_release = self.release.attribute_numbers(name)
        there = item_indices < len(of_release)
        found = (
            np.where(there, of_release[np.where(there, item_indices, 0)], np.nan) if len(of_release) else there * np.nan
        )
        for place, item_index in enumerate(item_indices.tolist()):
            if item_index in self._changed:
                found[place] = number_in(self._changed[item_index].attributes.get(name, ()))
        return found.astype(np.float32)

    @cached_property
    def everything(self) -> NDArray[np.int64]:
        """All numbers, those of items that are gone too, [items]."""
        return np.arange(self.items, dtype=np.int64)

    @cached_property
    def updated(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The numbers of the items that changed live, [m], and when each says it was updated (NaN: it does not)."""
        times = [item.updated_at for item in self._changed.values()]
        return np.array(list(self._changed), np.int64), np.array(times, np.float64)

    @cached_property
    def numbering(self) -> ItemRenumbering | None:
        """How items are numbered beside how they were when the release counted behaviour; None where as then."""
        if not self.is_changed:
            return None
        then = self.release.manifest.items
        before = np.concatenate([np.arange(then), np.full(self.items - then, -1)])
        now = np.arange(then)
        for item_id, item_index in self._numbers.items():
            was = self.release.ids.item_index(item_id)
            if was is not None:
                now[was] = -1 if item_index is None else item_index
                if item_index is not None:
                    before[item_index] = was
        now[np.isin(now, list(self.hidden))] = -1
        return ItemRenumbering(before, now)

    @property
    def is_changed(self) -> bool:
        return bool(self._chunks) or len(self.deleted) > 0

    @property
    def changes(self) -> dict[str, int]:
        """How many items are changed and gone since the release was built."""
        there = sum(item_index is not None for item_index in self._numbers.values())
        return {"changed": there, "gone": len(self._numbers) - there}

    def words_scores(self, asked: ParsedText) -> NDArray[np.float32]:
        """BM25 of all items for what words ask, times the share of the words held, [items]; -inf for who is gone."""
        scores = self.release.words.index.scores(asked.terms)
        if self.is_changed:
            added = self.items - len(scores)
            later = np.zeros(added, np.float32) if self._texts is None else self._texts.scores(asked.terms, added)
            scores = np.concatenate([scores, later])
        scores *= self.words_held(asked) / max(1, len(asked.words))
        scores[self.deleted] = -np.inf
        return scores

    def words_held(self, asked: ParsedText) -> NDArray[np.float32]:
        """How many of the words that are asked for each item has, [items]."""
        before = self.release.manifest.items
        held = np.zeros(self.items, np.float32)
        for forms in asked.words:
            has = np.zeros(self.items, np.bool_)
            for term in forms:
                has[self.release.words.index.holding(term)] = True
                if self._texts is not None:
                    has[before + self._texts.holding(term, self.items - before)] = True
            held += has
        return held

    def suggest(self, begun: str, k: int) -> list[str]:
        """What the begun words may become, at most k, without what content review blocks."""
        found = self.release.words.suggest(begun, 2 * k if self.policy.blocked.words else k)
        return [text for text in found if not self.policy.blocks(text)][:k]

    def facet(self, name: str, chosen: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """How many of the `chosen` items [items] have each value of a column or attribute."""
        of_release = chosen[: self.release.manifest.items].copy()
        of_release[[item_index for item_index in self._changed if item_index < len(of_release)]] = False
        changed = [item for item_index, item in self._changed.items() if chosen[item_index]]
        return counted(self.release.facet(name), name, of_release, changed)

    def selection(self, filter_: Filter) -> Selection:
        """The items that pass a filter, kept for the next request that asks by it."""
        if not self.is_changed:
            return self.release.selection(filter_)
        return self._selections.get(filter_.key, lambda: Selection(self._mask(filter_)))

    def _mask(self, filter_: Filter) -> Mask:
        before = self.release.manifest.items
        mask = np.zeros(self.items, np.bool_)
        mask[:before] = self.release.selection(filter_).mask
        for chunk in self._chunks:
            mask[chunk.item_indices] = filter_.mask(chunk.table)
        mask[self.deleted] = False
        return mask
