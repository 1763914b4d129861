"""From found items to what a caller reads: ids, scores, and the catalogue's fields."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from serve.release import Release
from serve.retrieve.engine import Found


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
    item = release.catalogue.item(number)
    values = asdict(item)
    values["image"] = item.images[image or 0] if item.images else None
    del values["item_id"]
    return values if fields is None else {name: values[name] for name in fields}
