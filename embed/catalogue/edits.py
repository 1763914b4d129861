"""Edits: changes of single items since the feed, kept beside the catalogue that has them.

A feed undoes what it is newer than; so that it undoes nothing else, however often it is read, those that are newer are
made again on what comes of it.
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

BATCH = 16_384

Change = Item | Mapping[str, Any] | None
"""A whole item, the fields of one that changed, or None where it is gone."""


@dataclass(frozen=True)
class Edit:
    """One change of one item; `sequence` and `at` (epoch seconds) are those of its record in the journal."""

    sequence: int
    at: float
    item_id: str
    change: Change


def apply_patch(item: Item, fields: Mapping[str, Any]) -> Item:
    """The item with some of its fields changed."""
    return replace(item, **fields)


def compact(edits: Iterable[Edit]) -> list[Edit]:
    """The edits, in order, without what later ones make void."""
    kept: dict[str, list[Edit]] = {}
    for edit in edits:
        earlier = kept.get(edit.item_id, []) if isinstance(edit.change, Mapping) else []
        kept[edit.item_id] = [*(left for each in earlier if (left := _without(each, edit))), edit]
    return sorted((edit for of_item in kept.values() for edit in of_item), key=lambda edit: edit.sequence)


def merge(edits: Iterable[Edit]) -> dict[str, Change]:
    """What the edits come to, by item id."""
    changes: dict[str, Change] = {}
    for edit in edits:
        before = changes.get(edit.item_id, {})
        if not isinstance(edit.change, Mapping):
            changes[edit.item_id] = edit.change
        elif isinstance(before, Item):
            changes[edit.item_id] = apply_patch(before, edit.change)
        elif before is not None:
            changes[edit.item_id] = {**before, **edit.change}
    return changes


def write_changed(writer: Any, batches: Iterable[Any], changes: Mapping[str, Change]) -> tuple[Counter[str], bytes]:
    """Write items, in pyarrow.RecordBatches, with changes by id: an item that is put keeps its place, or comes last.

    Returns how many items were put, patched and deleted, and a digest of these; what makes no difference is not told.
    """
    waiting = dict(changes)
    counts: Counter[str] = Counter()
    told = hashlib.sha256()

    def tell(item_id: str, changed: Item | None) -> None:
        kind = "put" if isinstance(changes[item_id], Item) else "patched"
        counts[kind if changed else "deleted"] += 1
        told.update(orjson.dumps([item_id, asdict(changed) if changed else None]))

    for batch in batches:
        if waiting.keys().isdisjoint(batch.column(0).to_pylist()):
            writer.write_batch(batch)
            continue
        kept = []
        for item in as_items(batch):
            changed = _changed(item, waiting.pop(item.item_id)) if item.item_id in waiting else item
            if changed is not None:
                kept.append(changed)
            if changed != item:
                tell(item.item_id, changed)
        if kept:
            writer.write_batch(as_batch(kept))
    added = [change for change in waiting.values() if isinstance(change, Item)]
    for start in range(0, len(added), BATCH):
        writer.write_batch(as_batch(added[start : start + BATCH]))
    for item in added:
        tell(item.item_id, item)
    return counts, told.digest()


def write_edits(folder: Path, edits: Iterable[Edit]) -> str:
    """Write edits into a folder; the name of their file, which carries its hash. No edits need no file: an empty name.

    One a line: the record's sequence and time, the item's id, and the whole item, the changed fields, or null.
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
    name = _name(data)
    (folder / name).write_bytes(data)
    return name


def read_edits(path: Path) -> list[Edit]:
    """The edits in a file; raises Damaged naming it where they are not what was written."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror}): ingest the feed again", path.name) from error
    if _name(data) != path.name:
        raise Damaged(f"{path} is not what was written: ingest the feed again", path.name)
    edits = []
    for line in data.splitlines():
        sequence, at, item_id, change = orjson.loads(line)
        edits.append(Edit(sequence, at, item_id, Item(**change["item"]) if change and "item" in change else change))
    return edits


def _changed(item: Item, change: Change) -> Item | None:
    return change if isinstance(change, Item) or change is None else apply_patch(item, change)


def _without(earlier: Edit, later: Edit) -> Edit | None:
    """What is left of an edit after a later one that changes fields; None where nothing is."""
    if not isinstance(earlier.change, Mapping) or not isinstance(later.change, Mapping):
        return earlier
    fields = {name: value for name, value in earlier.change.items() if name not in later.change}
    return replace(earlier, change=fields) if fields else None


def _name(data: bytes) -> str:
    return f"edits-{hashlib.blake2b(data, digest_size=16).hexdigest()}.jsonl"
