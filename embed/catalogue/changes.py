"""Live changes of the catalogue: what a caller may put or patch, and folding the changes into the next version."""

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson

from embed.catalogue.catalogue import ITEMS_FILE, Catalogue, as_batch, as_items
from embed.catalogue.cleaning import clean
from embed.catalogue.ingest import BATCH, REPORT_FILE, IngestReport, read_report
from embed.catalogue.item import ITEM_SCHEMA, Item
from embed.catalogue.mapping import CONTRACT_MAPPING, Binding
from embed.catalogue.mapping import Mapping as FeedMapping
from embed.catalogue.record import Raw, Record, Reject
from embed.catalogue.versions import arrow_file, prune, publish, scratch_folder
from embed.durable import alone, point, sha256
from embed.errors import BadInput

PATCHABLE = ("price", "currency", "available", "domain", "updated_at")  # what no encoder reads
FIELDS = frozenset(part.name for part in dataclasses.fields(Item)) | {"image"}

Change = Item | Mapping[str, Any] | None
"""A whole item, the fields of one that changed, or None where it is gone."""


def read_item(values: Mapping[str, Any], mapping: FeedMapping | None, repairs: Counter[str]) -> Item | Reject:
    """The item in an object under the contract's names, cleaned as a feed's are; only the mapping's defaults apply."""
    unknown = sorted(values.keys() - FIELDS)
    if unknown:
        return Reject(
            0,
            "unknown_field",
            f"there is no field {unknown[0]!r}: there are {', '.join(sorted(FIELDS))}",
            str(values.get("item_id", "")),
            unknown[0],
        )
    defaults = mapping.defaults if mapping else {}
    return clean(Binding(replace(CONTRACT_MAPPING, defaults=defaults), repairs).apply(Record(0, dict(values))), repairs)


def read_patch(values: Mapping[str, Any]) -> dict[str, Any] | Reject:
    """The changed fields of an item, cleaned; only those that no encoder reads."""
    item_id = str(values.get("item_id", ""))
    fields = {name: value for name, value in values.items() if name != "item_id"}
    for name in fields:
        if name not in PATCHABLE:
            reason = f"{name} cannot be patched, only {', '.join(PATCHABLE)}: put the whole item"
            return Reject(0, "not_patchable", reason, item_id, name)
    if not fields:
        return Reject(0, "nothing_to_patch", f"give at least one of {', '.join(PATCHABLE)}", item_id, "item_id")
    repairs: Counter[str] = Counter()
    cleaned = clean(Raw(0, item_id=item_id, title="-", **fields), repairs)
    if isinstance(cleaned, Reject):
        return cleaned
    wrong = [kind for kind, count in repairs.items() if count]
    if wrong:
        return Reject(
            0, wrong[0], f"{', '.join(f'{name} {value!r}' for name, value in fields.items())}: {wrong[0]}", item_id
        )
    return {name: getattr(cleaned, name) for name in fields}


def fold(store: Path, changes: Mapping[str, Change], journal: int) -> IngestReport:
    """Make a catalogue version of the current one with `changes` by item id, up to the journal's record `journal`.

    An item that is put keeps its place, or comes last if it is new. What changes nothing makes no new version.
    """
    home = store / "catalogue"
    taken = BadInput(f"another ingest is writing to {home}; wait for it to end", "store")
    with alone(home / ".lock", taken), scratch_folder(home) as scratch:
        before = Catalogue.current(store)
        report = read_report(before)
        counts: Counter[str] = Counter(report.changed)
        told = hashlib.sha256(before.version.encode())
        waiting = dict(changes)
        with arrow_file(scratch / ITEMS_FILE, ITEM_SCHEMA) as writer:
            for batch in before.record_batches():
                if waiting.keys().isdisjoint(batch.column(0).to_pylist()):
                    writer.write_batch(batch)
                    continue
                kept = []
                for item in as_items(batch):
                    changed = _changed(item, waiting.pop(item.item_id)) if item.item_id in waiting else item
                    if changed is not None:
                        kept.append(changed)
                    if changed != item:
                        kind = "put" if isinstance(changes[item.item_id], Item) else "patched"
                        counts[kind if changed else "deleted"] += 1
                        told.update(_told(item.item_id, changed))
                if kept:
                    writer.write_batch(as_batch(kept))
            added = [change for change in waiting.values() if isinstance(change, Item)]
            for start in range(0, len(added), BATCH):
                writer.write_batch(as_batch(added[start : start + BATCH]))
            for item in added:
                counts["put"] += 1
                told.update(_told(item.item_id, item))
        report.unchanged = counts == Counter(report.changed)
        report.journal, report.changed = journal, dict(counts)
        if report.unchanged:
            shutil.copyfile(before.file, scratch / ITEMS_FILE)
        else:
            report.version = told.hexdigest()[:16]
            report.items_sha256 = sha256(scratch / ITEMS_FILE)
        (scratch / REPORT_FILE).write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", "utf-8")
        rejects = before.file.with_name("rejects.jsonl")
        shutil.copyfile(rejects, scratch / rejects.name)
        publish(scratch, home / report.version)
        if not report.unchanged:
            point(home / "current", report.version)
            prune(home, {report.version, before.version})
    return report


def apply_patch(item: Item, fields: Mapping[str, Any]) -> Item:
    """The item with some of its fields changed."""
    return replace(item, **fields)


def _changed(item: Item, change: Change) -> Item | None:
    return change if isinstance(change, Item) or change is None else apply_patch(item, change)


def _told(item_id: str, item: Item | None) -> bytes:
    return orjson.dumps([item_id, asdict(item) if item else None])
