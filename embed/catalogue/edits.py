"""Edits: changes of single items made since the feed, stored beside the catalogue that contains them.

A feed overrides the edits that are older than it. Newer edits are applied again after every ingest, so that reading an
old feed again does not undo them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from embed.catalogue.catalogue import as_batch, as_items
from embed.catalogue.item import Item
from embed.errors import Damaged

BATCH_SIZE = 16_384

ItemChange = Item | Mapping[str, Any] | None
"""A whole item, the changed fields of an item, or None for a deleted item."""


@dataclass(frozen=True)
class Edit:
    """A change of one item; `sequence` and `at` (epoch seconds) come from its record in the journal."""

    sequence: int
    at: float
    item_id: str
    change: ItemChange


def apply_patch(item: Item, fields: Mapping[str, Any]) -> Item:
    """Return the item with some fields changed."""
    return replace(item, **fields)


def compact_edits(edits: Iterable[Edit]) -> list[Edit]:
    """Return the edits in order, without those that later ones override."""
    by_item: dict[str, list[Edit]] = {}
    for edit in edits:
        earlier = by_item.get(edit.item_id, []) if isinstance(edit.change, Mapping) else []
        remaining = [rest for other in earlier if (rest := _without_fields(other, edit))]
        by_item[edit.item_id] = [*remaining, edit]
    return sorted((edit for edits in by_item.values() for edit in edits), key=lambda edit: edit.sequence)


def merge_edits(edits: Iterable[Edit]) -> dict[str, ItemChange]:
    """Combine the edits of each item into one change, by item id."""
    changes: dict[str, ItemChange] = {}
    for edit in edits:
        before = changes.get(edit.item_id, {})
        if not isinstance(edit.change, Mapping):
            changes[edit.item_id] = edit.change
        elif isinstance(before, Item):
            changes[edit.item_id] = apply_patch(before, edit.change)
        elif before is not None:
            changes[edit.item_id] = {**before, **edit.change}
    return changes


def write_with_changes(
    writer: Any, batches: Iterable[Any], changes: Mapping[str, ItemChange]
) -> tuple[Counter[str], bytes]:
    """Write items, given as pyarrow.RecordBatches, with changes by item id applied.

    An item that is replaced keeps its position; a new one comes last. Returns how many items were put, patched and
    deleted, and a digest of these changes. Changes without effect are not counted.
    """
    pending = dict(changes)
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()

    def count(item_id: str, changed: Item | None) -> None:
        kind = "put" if isinstance(changes[item_id], Item) else "patched"
        counts[kind if changed else "deleted"] += 1
        digest.update(orjson.dumps([item_id, asdict(changed) if changed else None]))

    for batch in batches:
        if pending.keys().isdisjoint(batch.column(0).to_pylist()):
            writer.write_batch(batch)
            continue
        items = []
        for item in as_items(batch):
            changed = _apply(item, pending.pop(item.item_id)) if item.item_id in pending else item
            if changed is not None:
                items.append(changed)
            if changed != item:
                count(item.item_id, changed)
        if items:
            writer.write_batch(as_batch(items))
    added = [change for change in pending.values() if isinstance(change, Item)]
    for start in range(0, len(added), BATCH_SIZE):
        writer.write_batch(as_batch(added[start : start + BATCH_SIZE]))
    for item in added:
        count(item.item_id, item)
    return counts, digest.digest()


def write_edits(folder: Path, edits: Iterable[Edit]) -> str:
    """Write edits to a file in a folder and return its name, which carries its hash; without edits, an empty name.

    Each line holds the record's sequence and time, the item's id, and the whole item, the changed fields, or null.
    """
    data = b"".join(
        orjson.dumps(
            [
                edit.sequence,
                edit.at,
                edit.item_id,
                {"item": asdict(edit.change)} if isinstance(edit.change, Item) else edit.change,
            ],
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for edit in edits
    )
    if not data:
        return ""
    name = _file_name(data)
    (folder / name).write_bytes(data)
    return name


def read_edits(path: Path) -> list[Edit]:
    """Read the edits of a file; raises Damaged, naming the file, if it is not what was written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}): ingest the feed again", path.name) from error
    if _file_name(data) != path.name:
        raise Damaged(f"{path} is not what was written: ingest the feed again", path.name)
    edits = []
    for line in data.splitlines():
        sequence, at, item_id, change = orjson.loads(line)
        edits.append(Edit(sequence, at, item_id, Item(**change["item"]) if change and "item" in change else change))
    return edits


def _apply(item: Item, change: ItemChange) -> Item | None:
    return change if isinstance(change, Item) or change is None else apply_patch(item, change)


def _without_fields(earlier: Edit, later: Edit) -> Edit | None:
    """Return an edit without the fields that a later edit changes; None if no field remains."""
    if not isinstance(earlier.change, Mapping) or not isinstance(later.change, Mapping):
        return earlier
    fields = {name: value for name, value in earlier.change.items() if name not in later.change}
    return replace(earlier, change=fields) if fields else None


def _file_name(data: bytes) -> str:
    return f"edits-{hashlib.blake2b(data, digest_size=16).hexdigest()}.jsonl"
