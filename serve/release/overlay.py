"""The overlay: the live changes of one release, applied in the order of the journal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from embed.catalogue import Item, apply_patch
from embed.text_composition import compose_texts
from embed.towers.tower_features import Content
from index.keyword_index import KeywordOverlay
from index.overlay_index import AddedRows, OverlayIndex
from index.space import Vectors
from serve.moderation.policy import ContentPolicy
from serve.release.release import Release
from serve.release.snapshot import ChangedItems, ItemVectors, Snapshot
from serve.search.item_text import build_text

MAX_CHUNKS = 32  # batches of changed items, above which they are merged


class ReleaseOverlay:
    """Accumulates the live changes of one release; `snapshot` returns their state."""

    def __init__(self, release: Release) -> None:
        self._release = release
        self._items = release.manifest.items
        self._added = {name: AddedRows(index.space) for name, index in release.spaces.items()}
        self._tower_rows = AddedRows(release.tower.space) if release.tower else None
        self._texts = KeywordOverlay(release.words.index)
        self._item_indices: dict[str, int | None] = {}
        self._changed: dict[int, Item] = {}
        self._deleted: list[int] = []
        self._chunks: list[ChangedItems] = []
        self._latest: dict[int, Item] = {}  # changed since the last view
        self._policy, self._hidden = ContentPolicy(), dict[int, str]()

    def current(self, item_id: str) -> Item | None:
        """Return an item after all changes so far, None if it does not exist."""
        item_index = self._find(item_id)
        if item_index is None:
            return None
        return self._changed.get(item_index) or self._release.item(item_index)

    def put(self, item: Item, rows: Mapping[str, ItemVectors] | None) -> None:
        """Add or change an item; without `rows`, its vectors stay."""
        item_index = self._find(item.item_id)
        if rows is not None:
            if item_index is not None:
                self._forget(item_index)
            item_index = self._items
            self._items += 1
            for space, of in rows.items():
                self._added[space].append(item_index - self._release.manifest.items, of.labels, of.vectors)
            self._texts.append(
                item_index - self._release.manifest.items, *build_text(item, self._release.words.analyzer)
            )
            if self._tower_rows is not None:
                self._tower_rows.append(item_index - self._release.manifest.items, [0], self._tower_vector(item, rows))
        assert item_index is not None  # noqa: S101
        self._item_indices[item.item_id] = item_index
        self._changed[item_index] = self._latest[item_index] = item

    def patch(self, item_id: str, fields: Mapping[str, Any]) -> None:
        """Change fields that no encoder reads; ignored if the item does not exist."""
        item = self.current(item_id)
        if item is not None:
            self.put(apply_patch(item, fields), None)

    def delete(self, item_id: str) -> None:
        """Delete an item; ignored if it does not exist."""
        item_index = self._find(item_id)
        if item_index is not None:
            self._forget(item_index)
            self._item_indices[item_id] = None

    def snapshot(self, position: int, policy: ContentPolicy) -> Snapshot:
        """Return the state after the journal's record `position`, without items that the policy hides."""
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
            name: OverlayIndex(base, self._added[name].index(added), deleted) if added or len(deleted) else base
            for name, base in self._release.spaces.items()
        }
        tower = self._release.tower
        if tower is not None and self._tower_rows is not None and (added or len(deleted)):
            tower = OverlayIndex(tower, self._tower_rows.index(added), deleted)
        return Snapshot(
            self._release,
            position,
            self._items,
            spaces,
            tower,
            dict(self._item_indices),
            dict(self._changed),
            self._chunks,
            deleted,
            self._texts,
            dict(self._hidden),
            policy,
        )

    def _review(self, policy: ContentPolicy, latest: Sequence[ChangedItems]) -> None:
        """Find what must not be shown: among all items if the policy changed, else among those that changed since."""
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

    def _tower_vector(self, item: Item, rows: Mapping[str, ItemVectors]) -> Vectors:
        """Return the tower vector of an item by its content, [1, dim]; the item need not be in the training data."""
        towers = self._release.behaviour.towers
        assert towers is not None  # noqa: S101
        content = {}
        for space, (dim, _) in towers.vocabulary.spaces.items():
            of = rows.get(space)
            has_rows = of is not None and len(of.vectors) > 0
            vectors = of.vectors[:1] if of is not None and has_rows else np.zeros((1, dim), np.float32)
            content[space] = Content(vectors, np.array([0 if has_rows else -1]))
        return towers.encode_items([item], content)

    def _find(self, item_id: str) -> int | None:
        return self._item_indices[item_id] if item_id in self._item_indices else self._release.ids.item_index(item_id)

    def _forget(self, item_index: int) -> None:
        self._deleted.append(item_index)
        self._changed.pop(item_index, None)
        self._latest.pop(item_index, None)


def same_content(first: Item, second: Item) -> bool:
    """Return whether two items have the same content for encoders."""
    return first.images == second.images and compose_texts(first) == compose_texts(second)


def _chunk(items: Iterable[tuple[int, Item]]) -> ChangedItems:
    item_indices, changed = zip(*items, strict=True)
    return ChangedItems(np.array(item_indices, np.int64), tuple(changed))
