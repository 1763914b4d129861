"""Turns the rows of a request into live changes of items; each row has a result of its own."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embed.catalogue import FeedMapping, Item, Reject, parse_item, parse_item_id, parse_patch
from serve.core.errors import escape_surrogates
from serve.live.change_record import LiveChange
from serve.live.item_encoder import ItemEncoder

MakeChange = Callable[[int, Item | None], LiveChange | None]
"""Makes the change of a row from its position and the present item; None for no change. Sets the row's result."""


@dataclass
class ItemChangeResult:
    """The result of one row of a request that changes items.

    `status` is created, updated, unchanged, deleted, unknown (no such item) or rejected; a rejected row has an error.
    `warnings` name the values of a row that were repaired or ignored.
    """

    item_id: str
    status: str = ""
    code: str = ""
    message: str = ""
    field: str = ""
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_reject(cls, reject: Reject) -> "ItemChangeResult":
        """Return the result of a rejected row."""
        item_id, reason, field = map(escape_surrogates, (reject.item_id, reject.reason, reject.field))
        return cls(item_id, "rejected", reject.code, reason, field)


def put_items(
    rows: Sequence[Mapping[str, Any]],
    mapping: FeedMapping | None,
    encoder: ItemEncoder,
    review: Callable[[Sequence[Item]], None] = lambda items: None,
) -> tuple[list[ItemChangeResult], MakeChange]:
    """Prepare to add or replace whole items: parse, review and encode them.

    Args:
        rows: the items as received.
        mapping: how the feed's columns map to fields, if not by name.
        encoder: encodes the items.
        review: called with the valid items before they are encoded.

    Returns:
        The results so far, and the function that makes each change.
    """
    results: list[ItemChangeResult] = []
    items: dict[int, Item] = {}
    for position, values in enumerate(rows):
        repairs: Counter[str] = Counter()
        item = parse_item(values, mapping, repairs)
        if isinstance(item, Reject):
            results.append(ItemChangeResult.from_reject(item))
        else:
            items[position] = item
            repaired = tuple(kind for kind, count in repairs.items() if count)
            results.append(ItemChangeResult(item.item_id, warnings=repaired))
    review(list(items.values()))
    encoded = dict(zip(items, encoder.encode(list(items.values())), strict=True))
    warnings = encoder.warnings

    def make_change(position: int, before: Item | None) -> LiveChange | None:
        item, result = items[position], results[position]
        result.warnings += tuple(warnings.get(item.item_id, ()))
        result.status = "created" if before is None else "unchanged" if before == item else "updated"
        return None if before == item else LiveChange("put", item.item_id, item, rows=encoded[position])

    return results, make_change


def patch_items(rows: Sequence[Mapping[str, Any]]) -> tuple[list[ItemChangeResult], MakeChange]:
    """Prepare to change fields of items; return the results so far, and the function that makes each change."""
    patches = [parse_patch(values) for values in rows]
    results = [
        ItemChangeResult.from_reject(patch) if isinstance(patch, Reject) else ItemChangeResult(patch[0])
        for patch in patches
    ]

    def make_change(position: int, before: Item | None) -> LiveChange | None:
        patch, result = patches[position], results[position]
        assert not isinstance(patch, Reject)  # noqa: S101
        if before is None:
            result.status = "unknown"
            return None
        item_id, fields = patch
        is_same = all(getattr(before, name) == value for name, value in fields.items())
        result.status = "unchanged" if is_same else "updated"
        return None if is_same else LiveChange("patch", item_id, fields=fields)

    return results, make_change


def delete_items(item_ids: Sequence[str]) -> tuple[list[ItemChangeResult], MakeChange]:
    """Prepare to delete items; return the results so far, and the function that makes each change."""
    ids = [parse_item_id(item_id) for item_id in item_ids]
    results = [
        ItemChangeResult.from_reject(item_id) if isinstance(item_id, Reject) else ItemChangeResult(item_id)
        for item_id in ids
    ]

    def make_change(position: int, before: Item | None) -> LiveChange | None:
        results[position].status = "unknown" if before is None else "deleted"
        return LiveChange("delete", results[position].item_id) if before else None

    return results, make_change
