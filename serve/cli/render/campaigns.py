"""Renders audiences and generated texts."""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from serve.cli.render.table import Column, FittedTable

if TYPE_CHECKING:
    from serve.campaigns.audience import Audience
    from serve.jobs.write_copy import CopyReport

MAX_MEMBERS = 10  # members of an audience that are shown


def audience(selected: "Audience") -> RenderableType:
    """Render the first members of an audience, who was excluded, and the expected interactions."""
    columns = [
        Column("#", "right"),
        Column("user", style="cyan"),
        *(Column(name, "right") for name in ("score", "probability")),
        Column("group"),
    ]
    rows = [
        (
            str(rank),
            member.user_id,
            f"{member.score:.2f}",
            f"{member.probability:.4f}",
            "held out" if member.held_out else "",
        )
        for rank, member in enumerate(selected.members[:MAX_MEMBERS], 1)
    ]
    held_out = sum(member.held_out for member in selected.members)
    lines = [
        f"{len(selected.members)} of {selected.users} users, {held_out} held out; excluded: {selected.opted_out} opted "
        f"out, {selected.capped} contacted too often, {selected.already_interacted} interacted already",
        *(f"expected interactions of the first {size}: {count:.2f}" for size, count in selected.curve[-1:]),
    ]
    return Group(FittedTable(columns, rows), *(Text(line, "dim") for line in lines))


def copy_report(report: "CopyReport") -> RenderableType:
    """Render the first generated texts, and how many each generator wrote."""
    by_generator = ", ".join(f"{count:,} by {name}" for name, count in sorted(report.by.items()))
    file = f" in {report.file}" if report.file else ""
    lines = [Text(f"{text.item_id}: {text.text}") for text in report.texts]
    summary = f"{report.written:,} texts{file}: {by_generator}; {report.refused:,} rejected by the fact checker"
    return Group(*lines, Text(summary, "dim"))
