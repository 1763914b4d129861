"""Renders the findings of the doctor, API keys, hidden items and the audit log."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serve.cli.render.table import Column, FittedTable

if TYPE_CHECKING:
    from serve.jobs.doctor import Finding

MARKS = {"good": ("✓", "green"), "off": ("–", "dim"), "wrong": ("✗", "bold red")}
PERMISSIONS = {
    "query": "search and recommend",
    "events": "record events, change users' preferences",
    "catalogue": "change items",
    "admin": "everything, including the console, releases and users' data",
}
"""What each scope allows."""


def findings(found: Sequence["Finding"]) -> RenderableType:
    """Render the findings of the doctor."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(width=1)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for finding in found:
        mark, style = MARKS[finding.state]
        table.add_row(Text(mark, style), Text(finding.subject), Text(finding.detail))
    return table


def new_key(key: Mapping[str, Any]) -> RenderableType:
    """Render a key that was just created, and what it allows."""
    allowed = "; ".join(f"{scope}: {PERMISSIONS[scope]}" for scope in key["scopes"])
    lines = [
        "This is the only time that the key is shown. Send it as: Authorization: Bearer KEY",
        f"It allows {allowed}.",
    ]
    if "admin" not in key["scopes"]:
        lines.append("The console needs a key with scope admin: vetrina keys create console --scope admin")
    return Group(Text(key["key"], style="bold green", no_wrap=True, overflow="ignore"), Text("\n".join(lines)))


def keys(listed: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Render the keys of a store."""
    if not listed:
        return Text("no keys: create one with vetrina keys create NAME --scope admin")
    columns = [
        Column("name", flexible=True, wrap=True),
        Column("scopes"),
        Column("rate", "right"),
        Column("created (UTC)"),
    ]
    rows = [
        (key["name"], ", ".join(key["scopes"]), f"{key['rate']:g}/s" if key["rate"] else "", key["created_at"][:19])
        for key in listed
    ]
    return FittedTable(columns, rows)


def hidden_items(listed: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Render the items that moderation hides."""
    if not listed:
        return Text("no items are hidden")
    rows = [(item["item_id"], item["title"] or "", item["reason"]) for item in listed]
    columns = [Column("item", style="cyan"), Column("title", flexible=True), Column("reason")]
    return Group(FittedTable(columns, rows), Text(f"{len(listed):,} items are hidden"))


def audit_log(entries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Render the latest entries of the audit log."""
    if not entries:
        return Text("the audit log is empty")
    columns = [Column("time (UTC)"), Column("action"), Column("by"), Column("details", flexible=True, wrap=True)]
    rows = [
        (
            entry["at"][:19],
            entry["action"],
            entry["by"],
            ", ".join(f"{name} {_plain(value)}" for name, value in entry.items() if name not in ("at", "action", "by")),
        )
        for entry in entries
    ]
    return FittedTable(columns, rows)


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
