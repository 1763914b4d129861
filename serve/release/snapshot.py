"""The snapshot: a release with the live changes on top of it, as they are at one time.

A snapshot never changes; each batch of changes makes the next one. An item that gets other vectors gets a new item
index above all others, and its previous index is deleted. An item of which only other fields change, as the price,
keeps its index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embed.catalogue import Item, as_batch
from embed.towers.tower_features import Content
from index.item_mask import ItemMask, ItemMaskCache
from index.keyword_index import KeywordOverlay
from index.protocol import VectorIndex
from index.space import Vectors
from serve.moderation.policy import ContentPolicy
from serve.recommend.ranking.item_signals import ItemSignals
from serve.recommend.retrieval.retriever import ItemIndexMapping
from serve.release.release import Release, number_in
from serve.search.facets import count_facet
from serve.search.filters import Filter, Mask
from serve.search.vocabulary import ParsedText


class ItemVectors(NamedTuple):
    """The rows of one item in one space: which image or text each one is, [n], and its vector, [n, dim]."""

    labels: Sequence[int]
    vectors: Vectors


@dataclass(frozen=True)
class ChangedItems:
    """Items that changed together, with their item indices."""

    item_indices: NDArray[np.int64]
    items: tuple[Item, ...]

    @cached_property
    def table(self) -> Any:
        """The items as a pyarrow.Table."""
        return pa.Table.from_batches([as_batch(self.items)])


class Snapshot:
    """A release with live changes on top; immutable. `position` is the last change of the journal in it."""

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
        texts: KeywordOverlay | None = None,
        hidden: Mapping[int, str] | None = None,
        policy: ContentPolicy = ContentPolicy(),  # noqa: B008  immutable
    ) -> None:
        self.release = release
        self.position = position
        self.items = release.manifest.items if items is None else items
        self.spaces: Mapping[str, VectorIndex] = release.spaces if spaces is None else spaces
        self.tower = release.tower if tower is None else tower
        self._item_indices, self._changed = item_indices or {}, changed or {}
        self._chunks = tuple(chunks)
        self.deleted = np.empty(0, np.int64) if deleted is None else deleted
        self.is_changed = bool(self._chunks) or len(self.deleted) > 0
        """Whether there are live changes or hidden items."""
        self._texts = texts
        self.hidden = hidden or {}
        """By item index, why an existing item must not be shown. `deleted` contains these items too."""
        self.policy = policy
        self._selections = ItemMaskCache()
        self._facts: dict[int, ItemSignals] = {}  # of changed items, computed when they are used

    def item_index(self, item_id: str) -> int | None:
        """Return the index of an item that exists and may be shown, else None."""
        item_index = self._find(item_id)
        return None if item_index in self.hidden else item_index

    def why_hidden(self, item_id: str) -> str | None:
        """Return why the content policy hides an item, None if it does not."""
        item_index = self._find(item_id)
        return None if item_index is None else self.hidden.get(item_index)

    def _find(self, item_id: str) -> int | None:
        return self._item_indices[item_id] if item_id in self._item_indices else self.release.ids.item_index(item_id)

    def item_id(self, item_index: int) -> str:
        """Return the id of an item index."""
        if item_index < self.release.manifest.items:
            return self.release.ids.item_id(item_index)
        return self._changed[item_index].item_id

    def item(self, item_index: int) -> Item:
        """Return an item as it is now."""
        return self._changed.get(item_index) or self.release.item(item_index)

    def signals_of(self, item_indices: NDArray[np.int64]) -> ItemSignals:
        """Return the ranking signals of m items; raises AssertionError in a release without towers."""
        behaviour = self.release.behaviour
        assert behaviour.items is not None and behaviour.towers is not None  # noqa: S101, PT018
        changed = np.array([item_index in self._changed for item_index in item_indices.tolist()], np.bool_)
        if not changed.any():
            return behaviour.items.take(item_indices)
        parts = [
            behaviour.items.take(item_indices[~changed]),
            *map(self._signals_of_changed, item_indices[changed].tolist()),
        ]
        order = np.concatenate([np.flatnonzero(~changed), np.flatnonzero(changed)])
        return ItemSignals.concatenate(parts).take(np.argsort(order))

    def _signals_of_changed(self, item_index: int) -> ItemSignals:
        if item_index not in self._facts:
            behaviour, item = self.release.behaviour, self._changed[item_index]
            assert behaviour.towers is not None  # noqa: S101
            vocabulary = behaviour.towers.vocabulary
            no_vectors = {
                space: Content(np.zeros((1, dim), np.float32), np.array([-1]))
                for space, (dim, _) in vocabulary.spaces.items()
            }
            original = -1 if self.index_mapping is None else int(self.index_mapping.to_release[item_index])
            trend = behaviour.trend[original] if original >= 0 else np.nan
            seen = np.nan if item.updated_at is None else item.updated_at
            self._facts[item_index] = ItemSignals.build(
                vocabulary, vocabulary.features([item], no_vectors), np.array([trend], np.float32), np.array([seen])
            )
        return self._facts[item_index]

    def attribute_numbers(self, name: str, item_indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return an attribute of m items as a number, [m]; NaN for none."""
        of_release = self.release.attribute_numbers(name)
        in_release = item_indices < len(of_release)
        numbers = np.full(len(item_indices), np.nan)
        numbers[in_release] = of_release[item_indices[in_release]]
        for row, item_index in enumerate(item_indices.tolist()):
            if item_index in self._changed:
                numbers[row] = number_in(self._changed[item_index].attributes.get(name, ()))
        return numbers.astype(np.float32)

    @cached_property
    def everything(self) -> NDArray[np.int64]:
        """All item indices, [items], deleted items included."""
        return np.arange(self.items, dtype=np.int64)

    @cached_property
    def updated(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The items that changed live, [m], and when each was updated, epoch seconds, [m]; NaN for unknown."""
        times = [item.updated_at for item in self._changed.values()]
        return np.array(list(self._changed), np.int64), np.array(times, np.float64)

    @cached_property
    def index_mapping(self) -> ItemIndexMapping | None:
        """How item indices map to those of the release; None if they are equal."""
        if not self.is_changed:
            return None
        released = self.release.manifest.items
        to_release = np.concatenate([np.arange(released), np.full(self.items - released, -1)])
        to_snapshot = np.arange(released)
        for item_id, item_index in self._item_indices.items():
            original = self.release.ids.item_index(item_id)
            if original is not None:
                to_snapshot[original] = -1 if item_index is None else item_index
                if item_index is not None:
                    to_release[item_index] = original
        to_snapshot[np.isin(to_snapshot, list(self.hidden))] = -1
        return ItemIndexMapping(to_release, to_snapshot)

    @property
    def changes(self) -> dict[str, int]:
        """How many items changed and were deleted since the release was built."""
        changed = sum(item_index is not None for item_index in self._item_indices.values())
        return {"changed": changed, "deleted": len(self._item_indices) - changed}

    def keyword_scores(self, query: ParsedText) -> NDArray[np.float32]:
        """Return BM25 times the share of matched words, [items]; -inf for deleted items."""
        scores = self.release.words.index.scores(query.terms)
        if self.is_changed:
            added = self.items - len(scores)
            later = np.zeros(added, np.float32) if self._texts is None else self._texts.scores(query.terms, added)
            scores = np.concatenate([scores, later])
        scores *= self.count_matched_words(query) / max(1, len(query.words))
        scores[self.deleted] = -np.inf
        return scores

    def count_matched_words(self, query: ParsedText) -> NDArray[np.float32]:
        """Count how many words of a query each item has, [items]."""
        before = self.release.manifest.items
        held = np.zeros(self.items, np.float32)
        for forms in query.words:
            has = np.zeros(self.items, np.bool_)
            for term in forms:
                has[self.release.words.index.items_with_term(term)] = True
                if self._texts is not None:
                    has[before + self._texts.items_with_term(term, self.items - before)] = True
            held += has
        return held

    def suggest(self, begun: str, k: int) -> list[str]:
        """Complete a query that is being typed; at most k completions, without those that the content policy blocks."""
        found = self.release.words.suggest(begun, 2 * k if self.policy.blocked.words else k)
        return [text for text in found if not self.policy.blocks(text)][:k]

    def facet(self, name: str, chosen: NDArray[np.bool_]) -> list[dict[str, Any]]:
        """Count the values of a column or attribute among the `chosen` items [items]."""
        of_release = chosen[: self.release.manifest.items].copy()
        of_release[[item_index for item_index in self._changed if item_index < len(of_release)]] = False
        changed = [item for item_index, item in self._changed.items() if chosen[item_index]]
        return count_facet(self.release.facet(name), name, of_release, changed)

    def selection(self, filter_: Filter) -> ItemMask:
        """Return the items that pass a filter; cached for the next request with it."""
        if not self.is_changed:
            return self.release.selection(filter_)
        return self._selections.get(filter_.key, lambda: ItemMask(self._mask(filter_)))

    def _mask(self, filter_: Filter) -> Mask:
        before = self.release.manifest.items
        mask = np.zeros(self.items, np.bool_)
        mask[:before] = self.release.selection(filter_).mask
        for chunk in self._chunks:
            mask[chunk.item_indices] = filter_.mask(chunk.table)
        mask[self.deleted] = False
        return mask
