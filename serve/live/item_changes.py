"""What callers want changed of items: each row cleaned, encoded, and with an outcome of its own."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embed.catalogue import Item, Reject, read_id, read_item, read_patch
from embed.catalogue import Mapping as FeedMapping
from serve.core.errors import writable
from serve.live.change_record import LiveChange
from serve.live.item_encoder import ItemEncoder

Change = Callable[[int, Item | None], LiveChange | None]
"""By a row's place and the item as it is: what to change, None for nothing. It sets the row's outcome."""


@dataclass
class ItemChangeResult:
    """What became of one row of a batch of changes.

    `status` is created, updated, unchanged, deleted, unknown (no such item) or rejected; a rejected row says why.
    `warnings` tell of what was repaired or left out of a row that was taken.
    """

    item_id: str
    status: str = ""
    code: str = ""
    message: str = ""
    field: str = ""
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, reject: Reject) -> "ItemChangeResult":
        return cls(writable(reject.item_id), "rejected", reject.code, writable(reject.reason), writable(reject.field))


def put_edits(
    rows: Sequence[Mapping[str, Any]],
    mapping: FeedMapping | None,
    encoding: ItemEncoder,
    review: Callable[[Sequence[Item]], None] = lambda items: None,
) -> tuple[list[ItemChangeResult], Change]:
    """Items to add or to replace whole, encoded; `review` is asked of them first."""
    outcomes: list[ItemChangeResult] = []
    items: dict[int, Item] = {}
    for place, values in enumerate(rows):
        repairs: Counter[str] = Counter()
        item = read_item(values, mapping, repairs)
        if isinstance(item, Reject):
            outcomes.append(ItemChangeResult.of(item))
        else:
            items[place] = item
            outcomes.append(
                ItemChangeResult(item.item_id, warnings=tuple(kind for kind, count in repairs.items() if count))
            )
    review(list(items.values()))
    encoded = dict(zip(items, encoding.rows(list(items.values())), strict=True))
    told = encoding.warnings

    def change(place: int, before: Item | None) -> LiveChange | None:
        item, outcome = items[place], outcomes[place]
        outcome.warnings += tuple(told.get(item.item_id, ()))
        outcome.status = "created" if before is None else "unchanged" if before == item else "updated"
        return None if before == item else LiveChange("put", item.item_id, item, rows=encoded[place])

    return outcomes, change


def patch_edits(rows: Sequence[Mapping[str, Any]]) -> tuple[list[ItemChangeResult], Change]:
    """Fields to change of items."""
    patches = [read_patch(values) for values in rows]
    outcomes = [
        ItemChangeResult.of(patch) if isinstance(patch, Reject) else ItemChangeResult(patch[0]) for patch in patches
    ]

    def change(place: int, before: Item | None) -> LiveChange | None:
        patch, outcome = patches[place], outcomes[place]
        assert not isinstance(patch, Reject)  # noqa: S101
        if before is None:
            outcome.status = "unknown"
            return None
        item_id, fields = patch
        same = all(getattr(before, name) == value for name, value in fields.items())
        outcome.status = "unchanged" if same else "updated"
        return None if same else LiveChange("patch", item_id, fields=fields)

    return outcomes, change


def delete_edits(item_ids: Sequence[str]) -> tuple[list[ItemChangeResult], Change]:
    """Items to take away."""
    ids = [read_id(item_id) for item_id in item_ids]
    outcomes = [
        ItemChangeResult.of(item_id) if isinstance(item_id, Reject) else ItemChangeResult(item_id) for item_id in ids
    ]

    def change(place: int, before: Item | None) -> LiveChange | None:
        outcomes[place].status = "unknown" if before is None else "deleted"
        return LiveChange("delete", outcomes[place].item_id) if before else None

    return outcomes, change
