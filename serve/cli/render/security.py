"""Keys, content review and the audit log as a person reads them."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def new_key(made: dict[str, Any]) -> RenderableType:
    """A key that was just made."""
    return Group(
        Text(made["key"], style="bold green", no_wrap=True),
        Text(f"opens {', '.join(made['scopes'])}; it cannot be shown again. Send it as: Authorization: Bearer KEY"),
    )


def keys(kept: Sequence[dict[str, Any]]) -> RenderableType:
    """The keys of a store."""
    if not kept:
        return Text("there is no key: on this machine's own address everybody is answered, elsewhere nobody")
    return _table(
        ("name", "scopes", "rate", "created"),
        [
            (key["name"], ", ".join(key["scopes"]), f"{key['rate']:g}/s" if key["rate"] else "", key["created_at"][:19])
            for key in kept
        ],
    )


def hidden(found: Sequence[dict[str, Any]]) -> RenderableType:
    """What content review hides."""
    if not found:
        return Text("nothing is hidden")
    rows = [(each["item_id"], each["title"] or "", each["reason"]) for each in found]
    return Group(_table(("item", "title", "reason"), rows), Text(f"{len(found):,} items are hidden"))


def acts(found: Sequence[dict[str, Any]]) -> RenderableType:
    """The audit log."""
    if not found:
        return Text("nothing was changed by hand yet")
    rest = [{name: value for name, value in each.items() if name not in ("at", "act", "by")} for each in found]
    told = [", ".join(f"{name} {value}" for name, value in each.items()) for each in rest]
    rows = [(each["at"][:19], each["act"], each["by"], what) for each, what in zip(found, told, strict=True)]
    return _table(("when (UTC)", "act", "by", "what"), rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
