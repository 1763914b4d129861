"""The overlay: live changes on top of one release, accumulated in journal order."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from embed.catalogue import Item, apply_patch
from embed.compose import compose_texts
from embed.towers.features import Content
from index.lexical import AddedTexts
from index.overlay_index import Added, LiveIndex
from index.space import Vectors
from serve.moderation.policy import ContentPolicy
from serve.release.release import Release
from serve.release.snapshot import ChangedItems, ItemVectors, Snapshot
from serve.search.item_text import text_of

MAX_CHUNKS = 32


class ReleaseOverlay:
    """The live changes on one release as they come, in the journal's order; `view` gives their state."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._items = release.manifest.items
        self._added = {name: Added(index.space) for name, index in release.spaces.items()}
        self._placed = Added(release.tower.space) if release.tower else None
        self._texts = AddedTexts(release.words.index)
        self._numbers: dict[str, int | None] = {}
        self._changed: dict[int, Item] = {}
        self._deleted: list[int] = []
        self._chunks: list[ChangedItems] = []
        self._latest: dict[int, Item] = {}  # changed since the last view
        self._policy, self._hidden = ContentPolicy(), dict[int, str]()

    def current(self, item_id: str) -> Item | None:
        """The item as it is after all changes so far, or None."""
        item_index = self._number(item_id)
        if item_index is None:
            return None
        return self._changed.get(item_index) or self._release.item(item_index)

    def put(self, item: Item, rows: Mapping[str, ItemVectors] | None) -> None:
        """An item is new or changed; without `rows` what encoders read of it is what it was before."""
        item_index = self._number(item.item_id)
        if rows is not None:
            if item_index is not None:
                self._forget(item_index)
            item_index = self._items
            self._items += 1
            for space, of in rows.items():
                self._added[space].append(item_index - self._release.manifest.items, of.labels, of.vectors)
            self._texts.append(item_index - self._release.manifest.items, *text_of(item, self._release.words.analyzer))
            if self._placed is not None:
                self._placed.append(item_index - self._release.manifest.items, [0], self._place(item, rows))
        assert item_index is not None  # noqa: S101
        self._numbers[item.item_id] = item_index
        self._changed[item_index] = self._latest[item_index] = item

    def patch(self, item_id: str, fields: Mapping[str, Any]) -> None:
        """Some fields that no encoder reads changed; nothing where there is no such item."""
        item = self.current(item_id)
        if item is not None:
            self.put(apply_patch(item, fields), None)

    def delete(self, item_id: str) -> None:
        """An item is gone; nothing where there was none."""
        item_index = self._number(item_id)
        if item_index is not None:
            self._forget(item_index)
            self._numbers[item_id] = None

    def view(self, position: int, policy: ContentPolicy) -> Snapshot:
        """The state now, which is that after the journal's record `position`, without what the policy hides."""
        latest = []
        if self._latest:
            latest = [_chunk(self._latest.items())]
            self._chunks += latest
            self._latest = {}
            if len(self._chunks) > MAX_CHUNKS:
                self._chunks = [_chunk(self._changed.items())]
        self._review(policy, latest)
        deleted = np.unique(np.array([*self._deleted, *self._hidden], np.int64))
        added = self._items - self._release.manifest.items
        spaces = {
            name: LiveIndex(base, self._added[name].index(added), deleted) if added or len(deleted) else base
            for name, base in self._release.spaces.items()
        }
        tower = self._release.tower
        if tower is not None and self._placed is not None and (added or len(deleted)):
            tower = LiveIndex(tower, self._placed.index(added), deleted)
        return Snapshot(
            self._release,
            position,
            self._items,
            spaces,
            tower,
            dict(self._numbers),
            dict(self._changed),
            self._chunks,
            deleted,
            self._texts,
            dict(self._hidden),
            policy,
        )

    def _review(self, policy: ContentPolicy, latest: Sequence[ChangedItems]) -> None:
        """Find what must not be shown: of everything where the policy changed, else of what changed since."""
        if policy is not self._policy:
            self._policy = policy
            self._hidden = policy.hidden(self._release.catalogue.table)
            latest = self._chunks
        for chunk in latest:
            for item_index in chunk.item_indices.tolist():
                self._hidden.pop(item_index, None)
            self._hidden |= {int(chunk.item_indices[row]): why for row, why in policy.hidden(chunk.table).items()}
        for item_index in self._deleted:
            self._hidden.pop(item_index, None)

    def _place(self, item: Item, rows: Mapping[str, ItemVectors]) -> Vectors:
        """Where the towers place an item by its content, [1, dim]; no training has to know it."""
        towers = self._release.behaviour.towers
        assert towers is not None  # noqa: S101
        content = {}
        for space, (dim, _) in towers.vocabulary.spaces.items():
            of = rows.get(space)
            has_rows = of is not None and len(of.vectors) > 0
            vectors = of.vectors[:1] if of is not None and has_rows else np.zeros((1, dim), np.float32)
            content[space] = Content(vectors, np.array([0 if has_rows else -1]))
        return towers.vectors_of([item], content)

    def _number(self, item_id: str) -> int | None:
        return self._numbers[item_id] if item_id in self._numbers else self._release.ids.item_index(item_id)

    def _forget(self, item_index: int) -> None:
        self._deleted.append(item_index)
        self._changed.pop(item_index, None)
        self._latest.pop(item_index, None)


def same_content(first: Item, second: Item) -> bool:
    """Whether encoders read the same of two items."""
    return first.images == second.images and compose_texts(first) == compose_texts(second)


def _chunk(items: Iterable[tuple[int, Item]]) -> ChangedItems:
    item_indices, changed = zip(*items, strict=True)
    return ChangedItems(np.array(item_indices, np.int64), tuple(changed))
