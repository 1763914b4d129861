"""How results look in a terminal: tables and short sentences, for people."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from embed.alignment.alignment import AlignmentMetadata
    from embed.alignment.lora import LoraReport
    from embed.catalogue import IngestReport
    from embed.encode_job import SpaceVectors
    from serve.campaigns.audience import Audience
    from serve.jobs.build import BuildReport
    from serve.jobs.doctor import Finding
    from serve.jobs.export_candidates import BulkReport
    from serve.jobs.find_duplicates import DuplicatesReport
    from serve.jobs.write_copy import CopyReport
    from serve.recommend.retrieval.item_relations import ImportedLinks
    from serve.release.manifest import Check

MAX_COLUMNS = 3  # of sources, beside which there is room for a title
MAX_VALUES = 12  # of a facet
MAX_MEMBERS = 10  # of an audience that are shown
MAX_GROUPS = 20  # of the same image that are shown
MARKS = {"good": ("✓", "green"), "off": ("–", "dim"), "wrong": ("✗", "bold red")}


def answer(found: dict[str, Any]) -> RenderableType:
    """Found items, best first, with where their score comes from."""
    items = found["items"]
    if not items:
        return Text("nothing found", style="dim")
    spaces = sorted({space for item in items for space in item["retriever_scores"]})
    if len(spaces) > MAX_COLUMNS:  # of recommendations: the JSON has them
        spaces = []
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # Where room is short the title gives way, never an id, a price or a score.
    table.add_column("#", justify="right", style="dim", min_width=2)
    table.add_column("item", style="cyan", no_wrap=True, min_width=max(len(item["item_id"]) for item in items))
    table.add_column("title", no_wrap=True, overflow="ellipsis", max_width=38)
    table.add_column("category", style="dim", no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column("price", justify="right", no_wrap=True, min_width=max(len(price(item)) for item in items))
    table.add_column("score", justify="right", min_width=5)
    for space in spaces if len(spaces) > 1 else ():
        table.add_column(space, justify="right", style="dim", min_width=5)
    for place, item in enumerate(items, 1):
        each = [
            f"{item['retriever_scores'][space]:.2f}" if space in item["retriever_scores"] else "" for space in spaces
        ]
        table.add_row(
            str(place),
            item["item_id"],
            item["title"] or "",
            (item["category"] or "").rpartition("/")[2],
            price(item),
            f"{item['score']:.2f}",
            *(each if len(spaces) > 1 else ()),
        )
    reasons = [
        Text(f"{place:>2} {item['reasons'].sentence}")
        for place, item in enumerate(items, 1)
        if item.get("reasons") is not None
    ]
    foot = f"{len(items)} items in {found['took_ms']:.0f} ms from release {found['release']}"
    return Group(table, *reasons, *([Text("")] if reasons else []), Text(foot, "dim"))


def search(found: dict[str, Any]) -> RenderableType:
    """What was found for words, with how they were understood, and how many items have which value."""
    parts: list[RenderableType] = []
    understood = found["understood"]
    for typed, meant in understood["corrected"].items():
        parts.append(Text(f"{typed} is no word here: searched for {meant}", style="yellow"))
    for name, conditions in understood["filter"].items():
        said = " and ".join(
            f"{'at most' if bound == 'lte' else 'at least'} {value:g}" for bound, value in conditions.items()
        )
        parts.append(Text(f"{name} {said}, as the words say", style="yellow"))
    for name, values in found["facets"].items():
        counts = ", ".join(
            f"{each['value'] if 'value' in each else '{from:g} to {to:g}'.format(**each)} ({each['count']})"
            for each in values[:MAX_VALUES]
        )
        parts.append(Text(f"{name}: {counts}", style="dim"))
    return Group(*parts, answer(found))


def price(item: dict[str, Any]) -> str:
    return "" if item["price"] is None else f"{item['price']:,.2f} {item['currency'] or ''}".rstrip()


def ingest_report(report: "IngestReport") -> RenderableType:
    """What became of a feed's records."""
    lines = [f"{report.feed}: {report.read:,} read = {report.kept:,} kept + {report.rejected:,} rejected"]
    lines += [f"  rejected {count:,} × {code}" for code, count in report.rejects.items()]
    lines += [f"  repaired {count:,} × {kind}" for kind, count in report.repaired.items()]
    if report.ignored_columns:
        lines.append(f"  columns not used: {', '.join(report.ignored_columns)} (take them in with --mapping)")
    return Text("\n".join(lines))


def space_figures(space: "SpaceVectors") -> dict[str, Any]:
    """What encoding did for one space."""
    return {
        "space": space.space,
        "encoder": space.encoder,
        "fingerprint": space.fingerprint,
        "rows": len(space.owners),
        "encoded": space.encoded,
        "truncated": space.truncated,
        "failed": len(space.failures),
        "failures": str(space.store.folder / "failures.jsonl") if space.failures else None,
    }


def encoded(figures: Sequence[dict[str, Any]]) -> RenderableType:
    lines = []
    for space in figures:
        line = f"{space['space']}: {space['rows']:,} rows, {space['encoded']:,} newly encoded by {space['encoder']}"
        if space["truncated"]:
            line += f", {space['truncated']:,} texts longer than it reads"
        if space["failed"]:
            line += f", {space['failed']:,} images refused (see {space['failures']}; the next run tries again)"
        lines.append(line)
    return Text("\n".join(lines))


def build_figures(report: "BuildReport") -> dict[str, Any]:
    return {
        "release": report.manifest.release,
        "published": report.published,
        "checks": report.checks,
        "items": report.manifest.items,
        "ingest": report.ingest,
        "encoded": [space_figures(space) for space in report.spaces],
        "folded": report.folded.changed if report.folded else None,
        "spaces": {name: space.model_dump(exclude={"curve"}) for name, space in report.manifest.indexes.items()},
        "alignment": report.manifest.alignment,
        "seconds": report.seconds,
    }


def build_report(report: "BuildReport") -> RenderableType:
    """What a build did, stage by stage."""
    parts: list[RenderableType] = [ingest_report(report.ingest)] if report.ingest else []
    if latest := report.folded or report.ingest:
        changed = ", ".join(f"{count:,} {kind}" for kind, count in latest.changed.items())
        if changed or report.folded:
            parts.append(Text(f"live changes since the feed that are in: {changed or 'none that matter'}"))
    parts.append(encoded([space_figures(space) for space in report.spaces]))
    if report.manifest.alignment is not None:
        parts.append(alignment(report.manifest.alignment))
    for name, space in report.manifest.indexes.items():
        parts.append(
            Text(
                f"index {name}: {space.factory}, {space.rows:,} × {space.dim}, recall@10 {space.recall10:.3f}, "
                f"{space.latency_ms:.2f} ms a query, {space.bytes / 1e6:.1f} MB"
            )
        )
    took = " ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    if report.checks:
        parts.append(checks(report.checks))
    if report.refused:
        parts.append(_refusal(report.manifest.release))
    else:
        verb = "published" if report.published else "nothing changed, still"
        parts.append(Text.assemble((f"{verb} release {report.manifest.release}", "bold green"), f"  ({took})"))
    return Group(*parts)


def alignment(facts: "AlignmentMetadata") -> RenderableType:
    """How words and photos enter the image space, as measured on products that nothing was learned from."""
    lines = []
    for what, found, k, enough in (
        ("words", facts.of_words, 10, f"{facts.pairs:,} items with image and words"),
        ("photos", facts.of_photos, 1, f"{facts.photographed:,} products with several photos"),
    ):
        if found is None:
            lines.append(f"align {what}: {enough}, too few to learn from")
        else:
            verdict = "used" if found.better else "not used, as that is not surely better"
            lines.append(
                f"align {what}: recall@{k} {found.before:.3f} -> {found.after:.3f} over {found.queries:,} held out, "
                f"{verdict}"
            )
    return Text("\n".join(lines))


def fine_tuned(encoder: str, report: "LoraReport") -> RenderableType:
    """What came of fine-tuning, and how to use it."""
    read = f"{report.pairs:,} items with image and words"
    if report.refused:
        read += f", {report.refused:,} images could not be read"
    found = report.of_words
    if found is None:
        return Text(f"{read}: too few products to learn from")
    told = f"words: recall@10 {found.before:.3f} -> {found.after:.3f} over {found.queries:,} held out, from {read}"
    if report.weights is None:
        return Text(f"{told}: not surely better, nothing was written")
    model = encoder.removeprefix("open_clip:").partition("/")[0]
    return Text(f'{told}\nto use it, set image_encoder = "open_clip:{model}/{report.weights}" and build')


def checks(found: "Sequence[Check]") -> RenderableType:
    """How a release measures beside the current one."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "current", "release", "difference, 95 %", "cases", ""):
        table.add_column(name, justify="right" if table.columns else "left", no_wrap=True)
    for one in found:
        interval = "" if one.low is None else f"{one.low:+.4f} to {one.high:+.4f}"
        verdict = Text("worse", "bold red") if one.worse else Text("✓", "green")
        table.add_row(one.name, f"{one.parent:.4f}", f"{one.release:.4f}", interval, f"{one.cases or ''}", verdict)
    return table


def published(report: dict[str, Any]) -> RenderableType:
    """Whether a release answers now, and how it measured."""
    parts: list[RenderableType] = [checks(report["checks"])] if report["checks"] else []
    if report["published"]:
        parts.append(Text(f"release {report['release']} answers now", "bold green"))
    else:
        parts.append(_refusal(report["release"]))
    return Group(*parts)


def _refusal(release: str) -> RenderableType:
    return Text(
        f"release {release} is worse than the current one and was not published; to publish it all the same: "
        f"vetrina publish {release} --force",
        "bold red",
    )


def duplicates(report: "DuplicatesReport") -> RenderableType:
    """The largest groups of the same image, and how many there are."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("items", "of them", "title"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=48)
    for group in sorted(report.groups, key=len, reverse=True)[:MAX_GROUPS]:
        table.add_row(f"{len(group)}", ", ".join(copy.item_id for copy in group[:3]), group[0].title or "")
    told = f"{len(report.groups):,} groups among {report.images:,} images, {report.compared:,} pairs looked at"
    if report.refused:
        told += f", {report.refused:,} images could not be read again"
    return Group(table, Text(told)) if report.groups else Text(told)


def releases(listed: Sequence[dict[str, Any]]) -> RenderableType:
    if not listed:
        return Text("no release yet: vetrina build FEED", style="dim")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "release", "made", "items", "spaces", "from"):
        table.add_column(column, no_wrap=True)
    for release in listed:
        spaces = ", ".join(
            f"{name} {space['factory']} {space['recall10']:.3f}" for name, space in release["spaces"].items()
        )
        table.add_row(
            "→" if release["current"] else "",
            release["release"],
            release["created_at"][:16].replace("T", " "),
            f"{release['items']:,}",
            spaces,
            release["feed"],
        )
    return table


def findings(found: Sequence["Finding"]) -> RenderableType:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(width=1)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for finding in found:
        mark, style = MARKS[finding.state]
        table.add_row(Text(mark, style), finding.subject, finding.detail)
    return table


def rules(listed: list[dict[str, Any]]) -> RenderableType:
    """Each rule, and whether it holds now."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("rule", "does", "now"):
        table.add_column(name, no_wrap=True)
    for rule in listed:
        table.add_row(rule["name"], rule["do"], "holds" if rule["holds"] else "does not hold")
    return table if listed else Text("no rules", style="dim")


def rules_tried(answers: dict[str, Any]) -> RenderableType:
    """Recommendations with the rules, the place of each without them, and the rules that moved it."""
    before = {item["item_id"]: place for place, item in enumerate(answers["without"]["items"], 1)}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("#", "was", "item", "title", "rules"):
        table.add_column(name, no_wrap=name != "title", justify="right" if name in ("#", "was") else "left")
    for place, item in enumerate(answers["with"]["items"], 1):
        was = str(before.pop(item["item_id"], "–"))
        table.add_row(str(place), was, item["item_id"], item["title"] or "", ", ".join(item.get("rules", ())))
    deleted = Text("no longer there: " + ", ".join(before)) if before else Text("all are still there", "dim")
    return Group(table, deleted)


def copies(found: "CopyReport") -> RenderableType:
    """The first texts, and who wrote them."""
    by = ", ".join(f"{count:,} by {name}" for name, count in sorted(found.by.items()))
    where = f" in {found.file}" if found.file else ""
    lines = [Text(f"{each.item_id}: {each.text}") for each in found.texts]
    return Group(*lines, Text(f"{found.written:,} texts{where}: {by}; {found.refused:,} of others refused", "dim"))


def links(found: "ImportedLinks") -> RenderableType:
    """What became of a merchandiser's links."""
    counts = ", ".join(f"{count:,} {name}" for name, count in found.links.items()) or "none"
    return Text(f"{found.read:,} rows read, {found.unknown:,} name no item; links in {found.file}: {counts}")


def audience(found: "Audience") -> RenderableType:
    """The first of an audience, who was left out, and what to expect."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("#", "user", "score", "chance", ""):
        table.add_column(name, justify="left" if name in ("user", "") else "right")
    for place, member in enumerate(found.members[:MAX_MEMBERS], 1):
        held_out = "held out" if member.held_out else ""
        table.add_row(str(place), member.user_id, f"{member.score:.2f}", f"{member.probability:.4f}", held_out)
    held = sum(member.held_out for member in found.members)
    lines = [
        f"{len(found.members)} of {found.users} shoppers, {held} held out; left out: {found.opted_out} opted out, "
        f"{found.capped} reached too often, {found.had} had it",
        *(f"of the first {size}: {expected:.2f} acts to expect" for size, expected in found.curve[-1:]),
    ]
    return Group(table, *(Text(line, "dim") for line in lines))


def candidates_report(report: "BulkReport") -> RenderableType:
    """How many candidates were written where."""
    return Text(
        f"{report.rows:,} candidates of {report.users:,} users from release {report.release} in {report.file} "
        f"({report.seconds:.1f} s)"
    )
