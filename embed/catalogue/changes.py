"""Live changes of the catalogue: what a caller may put or patch, and folding the changes into the next version."""

import dataclasses
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from embed.catalogue.catalogue import ITEMS_FILE, Catalogue
from embed.catalogue.cleaning import clean, identifier
from embed.catalogue.edits import Edit, compact, merge, write_changed, write_edits
from embed.catalogue.ingest import IngestReport, current_edits, edited_version, publish_version, read_report
from embed.catalogue.item import ITEM_SCHEMA, Item
from embed.catalogue.mapping import CONTRACT_MAPPING, Binding
from embed.catalogue.mapping import Mapping as FeedMapping
from embed.catalogue.price import parse_price
from embed.catalogue.raw import Raw
from embed.catalogue.versions import arrow_file, scratch_folder
from embed.durable import alone, sha256
from embed.errors import BadInput
from embed.records import Record, Reject

PATCHABLE = ("price", "currency", "available", "domain", "updated_at")  # what no encoder reads
FIELDS = frozenset(part.name for part in dataclasses.fields(Item)) | {"image"}


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


def read_id(value: object) -> str | Reject:
    """An item's id, read as a feed's is."""
    item_id, code, reason = identifier(value)
    return Reject(0, code, reason, item_id, "item_id") if code else item_id


def read_patch(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | Reject:
    """An item's id and its changed fields, cleaned; only those that no encoder reads.

    A currency that is named beside the price comes with it.
    """
    item_id, code, reason = identifier(values.get("item_id"))
    if code:
        return Reject(0, code, reason, item_id, "item_id")
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
    for kind, (name, wanted) in _WANTED.items():
        if repairs[kind]:
            return Reject(0, kind, f"{name} is {fields[name]!r:.100}: give {wanted}", item_id, name)
    if "currency" not in fields and not parse_price(fields.get("price")).guessed and cleaned.currency:
        fields["currency"] = cleaned.currency
    return item_id, {name: getattr(cleaned, name) for name in fields}


_WANTED = {
    "price_unknown": ("price", "an amount from 0 on, with or without its currency"),
    "currency_unknown": ("currency", "a code like EUR"),
    "available_unknown": ("available", "true or false"),
    "updated_at_unknown": ("updated_at", "seconds since 1970 or an ISO 8601 time"),
    "text_unreadable": ("domain", "a text"),
}


def fold(store: Path, edits: Sequence[Edit], journal: int) -> IngestReport:
    """Make a catalogue version of the current one with new edits, up to the journal's record `journal`.

    What changes nothing makes no new version.
    """
    home = store / "catalogue"
    taken = BadInput(f"another ingest is writing to {home}; wait for it to end", "store")
    with alone(home / ".lock", taken), scratch_folder(home) as scratch:
        before = Catalogue.current(store)
        report = read_report(before)
        with arrow_file(scratch / ITEMS_FILE, ITEM_SCHEMA) as writer:
            counts, told = write_changed(writer, before.record_batches(), merge(edits))
        report.unchanged = not counts
        if counts:
            report.changed = dict(Counter(report.changed) + counts)
            report.version = edited_version(before.version, told)
            report.items_sha256 = sha256(scratch / ITEMS_FILE)
        else:
            shutil.copyfile(before.file, scratch / ITEMS_FILE)
        report.edits = write_edits(scratch, compact([*current_edits(before), *edits]))
        report.journal = journal
        rejects = before.file.with_name("rejects.jsonl")
        shutil.copyfile(rejects, scratch / rejects.name)
        publish_version(home, scratch, report, before)
    return report
