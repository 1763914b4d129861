"""Renders the responses of searches and recommendations, and what rules change in them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from serve.cli.render.table import Column, FittedTable

if TYPE_CHECKING:
    from serve.jobs.export_candidates import CandidatesReport
    from serve.jobs.export_catalogue import ExportReport
    from serve.recommend.retrieval.item_relations import ImportedLinks

MAX_RETRIEVERS = 3  # whose scores are shown; the JSON has all
MAX_FACET_VALUES = 12


def results(response: Mapping[str, Any]) -> RenderableType:
    """Render the items of a response, best first, with their scores."""
    items = response["items"]
    if not items:
        return Text("no items match", style="dim")
    retrievers = sorted({name for item in items for name in item["retriever_scores"]})
    if not 1 < len(retrievers) <= MAX_RETRIEVERS:
        retrievers = []
    columns = [
        Column("#", "right", "dim"),
        Column("item", style="cyan"),
        Column("title", flexible=True, max_width=38),
        Column("category", style="dim", max_width=16),
        Column("price", "right"),
        Column("score", "right"),
        *(Column(name, "right", "dim") for name in retrievers),
    ]
    rows = [
        (
            str(rank),
            item["item_id"],
            item["title"] or "",
            (item["category"] or "").rpartition("/")[2],
            price(item),
            f"{item['score']:.2f}",
            *(_score(item["retriever_scores"], name) for name in retrievers),
        )
        for rank, item in enumerate(items, 1)
    ]
    reasons = [
        Text(f"{rank:>2} {item['reasons'].sentence}")
        for rank, item in enumerate(items, 1)
        if item.get("reasons") is not None
    ]
    omitted = [
        Text(f"without {part}: what it needs does not respond, see vetrina doctor", "yellow")
        for part in response.get("partial", ())
    ]
    summary = f"{len(items)} items in {response['took_ms']:.0f} ms from release {response['release']}"
    return Group(FittedTable(columns, rows), *reasons, *([Text("")] if reasons else []), *omitted, Text(summary, "dim"))


def search_results(response: Mapping[str, Any]) -> RenderableType:
    """Render the results of a search, how its text was understood, and the counts of its facets."""
    lines: list[RenderableType] = []
    understood = response["understood"]
    for typed, corrected in understood["corrected"].items():
        lines.append(Text(f"{typed!r} is not in the catalogue: searched for {corrected!r}", style="yellow"))
    for name, conditions in understood["filter"].items():
        bounds = " and ".join(
            f"{'at most' if bound == 'lte' else 'at least'} {value:g}" for bound, value in conditions.items()
        )
        lines.append(Text(f"{name} {bounds}, as the text asks for", style="yellow"))
    for name, values in response["facets"].items():
        counts = ", ".join(
            f"{each['value'] if 'value' in each else '{from:g} to {to:g}'.format(**each)} ({each['count']})"
            for each in values[:MAX_FACET_VALUES]
        )
        lines.append(Text(f"{name}: {counts}", style="dim"))
    return Group(*lines, results(response))


def price(item: Mapping[str, Any]) -> str:
    """Format an item's price; empty without one."""
    return "" if item["price"] is None else f"{item['price']:,.2f} {item['currency'] or ''}".rstrip()


def rules(listed: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Render rules, and whether each is active now."""
    if not listed:
        return Text("no rules", style="dim")
    rows = [(rule["name"], rule["do"], "active" if rule["holds"] else "not active") for rule in listed]
    return FittedTable([Column("rule", flexible=True, wrap=True), Column("action"), Column("now")], rows)


def rules_comparison(responses: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Render recommendations with rules, the rank of each item without them, and the rules that moved it."""
    before = {item["item_id"]: rank for rank, item in enumerate(responses["without"]["items"], 1)}
    columns = [
        Column("#", "right"),
        Column("before", "right"),
        Column("item", style="cyan"),
        Column("title", flexible=True),
        Column("rules"),
    ]
    rows = []
    for rank, item in enumerate(responses["with"]["items"], 1):
        rank_before = str(before.pop(item["item_id"], "–"))
        rules_applied = ", ".join(item.get("rules", ()))
        rows.append((str(rank), rank_before, item["item_id"], item["title"] or "", rules_applied))
    removed = Text("removed by the rules: " + ", ".join(before)) if before else Text("no item is removed", "dim")
    return Group(FittedTable(columns, rows), removed)


def imported_links(report: "ImportedLinks") -> RenderableType:
    """Render what was read from a file of links between items."""
    counts = ", ".join(f"{count:,} {name}" for name, count in report.links.items()) or "none"
    return Text(f"{report.read:,} rows read, {report.unknown:,} with an unknown item; links in {report.file}: {counts}")


def candidates_report(report: "CandidatesReport") -> RenderableType:
    """Render how many candidates were written to which file."""
    return Text(
        f"{report.rows:,} candidates of {report.users:,} users from release {report.release} written to {report.file} "
        f"({report.seconds:.1f} s)"
    )


def export_report(report: "ExportReport") -> RenderableType:
    """Render how many rows were written to which file."""
    return Text(
        f"{report.rows:,} rows of {report.items:,} items from release {report.release} written to {report.file} "
        f"({report.seconds:.1f} s)"
    )


def _score(scores: Mapping[str, float], name: str) -> str:
    return f"{scores[name]:.2f}" if name in scores else ""
