"""Parses live changes of items: whole items to put, fields to patch, ids to delete."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from embed.catalogue.feed_mapping import CONTRACT_MAPPING, Binding, FeedMapping
from embed.catalogue.item import Item
from embed.catalogue.item_cleaning import clean_item, parse_identifier
from embed.catalogue.price import parse_price
from embed.catalogue.raw_product import RawProduct
from embed.records import Record, Reject

PATCHABLE = ("price", "currency", "available", "domain", "updated_at")  # fields that no encoder reads
FIELDS = frozenset(part.name for part in dataclasses.fields(Item)) | {"image"}


def parse_item(values: Mapping[str, Any], mapping: FeedMapping | None, repairs: Counter[str]) -> Item | Reject:
    """Parse an item with standard field names, cleaned like a feed's; only the mapping's defaults apply."""
    unknown = sorted(values.keys() - FIELDS)
    if unknown:
        return Reject(
            0,
            "unknown_field",
            f"field {unknown[0]!r} does not exist: use {', '.join(sorted(FIELDS))}",
            str(values.get("item_id", "")),
            unknown[0],
        )
    defaults = mapping.defaults if mapping else {}
    binding = Binding(replace(CONTRACT_MAPPING, defaults=defaults), repairs)
    return clean_item(binding.apply(Record(0, dict(values))), repairs)


def parse_item_id(value: object) -> str | Reject:
    """Parse an item's id by the rules of a feed."""
    item_id, code, reason = parse_identifier(value)
    return Reject(0, code, reason, item_id, "item_id") if code else item_id


def parse_patch(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | Reject:
    """Parse an item's id and its changed fields, cleaned. Only fields that no encoder reads can be patched.

    A currency in the text of a price is returned as a field of its own.
    """
    item_id, code, reason = parse_identifier(values.get("item_id"))
    if code:
        return Reject(0, code, reason, item_id, "item_id")
    fields = {name: value for name, value in values.items() if name != "item_id"}
    for name in fields:
        if name not in PATCHABLE:
            reason = f"{name} cannot be patched, only {', '.join(PATCHABLE)}: put the whole item"
            return Reject(0, "not_patchable", reason, item_id, name)
    if not fields:
        return Reject(0, "nothing_to_patch", f"no field to patch: give {', '.join(PATCHABLE)}", item_id, "item_id")
    repairs: Counter[str] = Counter()
    cleaned = clean_item(RawProduct(0, item_id=item_id, title="-", **fields), repairs)
    if isinstance(cleaned, Reject):
        return cleaned
    for kind, (name, expected) in _EXPECTED.items():
        if repairs[kind]:
            return Reject(0, kind, f"{name} {fields[name]!r:.100} is invalid: give {expected}", item_id, name)
    if "currency" not in fields and not parse_price(fields.get("price")).guessed and cleaned.currency:
        fields["currency"] = cleaned.currency
    return item_id, {name: getattr(cleaned, name) for name in fields}


_EXPECTED = {
    "price_unknown": ("price", "an amount of 0 or more, with or without its currency"),
    "currency_unknown": ("currency", "a code like EUR"),
    "available_unknown": ("available", "true or false"),
    "updated_at_unknown": ("updated_at", "epoch seconds or an ISO 8601 time"),
    "text_unreadable": ("domain", "a text"),
}
