"""From found items to what a caller reads: ids, scores, and the catalogue's fields."""

from collections.abc import Sequence
from dataclasses import fields as fields_of
from typing import Any

from embed.catalogue import Item
from serve.release import Release
from serve.retrieve.engine import Found

FIELDS = [field.name for field in fields_of(Item) if field.name != "item_id"]


def answer_items(release: Release, found: Sequence[Found], fields: Sequence[str]) -> list[dict[str, Any]]:
    """The answer's items, with the wanted catalogue fields; `image` is the one that matched best, if any did."""
    return [
        {
            "item_id": release.ids.text(one.number),
            "score": one.score,
            "sources": one.sources,
            **item_fields(release, one.number, fields, one.image),
        }
        for one in found
    ]


def item_fields(
    release: Release, number: int, fields: Sequence[str] | None = None, image: int | None = None
) -> dict[str, Any]:
    """Catalogue fields of one item, all of them without `fields`."""
    item = release.item(number)
    values = {name: getattr(item, name) for name in (FIELDS if fields is None else fields) if name != "image"}
    if fields is None or "image" in fields:
        values["image"] = item.images[image or 0] if item.images else None
    return values
