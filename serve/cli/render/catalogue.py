"""Renders reports of ingest, encoding, builds and releases."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from serve.cli.render.table import Column, FittedTable

if TYPE_CHECKING:
    from embed.alignment.alignment import AlignmentMetadata
    from embed.alignment.lora import LoraReport
    from embed.catalogue import IngestReport
    from embed.encode_job import SpaceVectors
    from serve.core.settings import Settings
    from serve.jobs.build import BuildReport
    from serve.jobs.encoding_plan import EncodingPlan
    from serve.jobs.find_duplicates import DuplicatesReport
    from serve.release.manifest import Check

MAX_GROUPS = 20  # groups of duplicates that are shown


def ingest_report(report: "IngestReport") -> RenderableType:
    """Render how many records of a feed were kept, rejected and repaired."""
    lines = [f"{report.feed}: {report.read:,} read = {report.kept:,} kept + {report.rejected:,} rejected"]
    lines += [f"  rejected {count:,} × {code}" for code, count in report.rejects.items()]
    lines += [f"  repaired {count:,} × {kind}" for kind, count in report.repaired.items()]
    if report.ignored_columns:
        lines.append(f"  columns not used: {', '.join(report.ignored_columns)} (a --mapping file can add them)")
    return Text("\n".join(lines))


def space_figures(space: "SpaceVectors", settings: "Settings") -> dict[str, Any]:
    """Return the figures of one space's encoding, for JSON.

    `failed` photos could not be read; `switched_off` counts those that a setting excludes, by the setting.
    """
    from serve.jobs.photo_check import count_switched_off, read_failures

    failures = read_failures(space.failures, settings)
    return {
        "space": space.space,
        "encoder": space.encoder,
        "fingerprint": space.fingerprint,
        "rows": len(space.owners),
        "encoded": space.encoded,
        "truncated": space.truncated,
        "failed": len(failures),
        "failures": str(space.store.folder / "failures.jsonl") if space.failures else None,
        "switched_off": count_switched_off(space.failures, settings),
    }


def encoding(figures: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Render the encoding of each space."""
    lines = []
    for space in figures:
        line = f"{space['space']}: {space['rows']:,} rows, {space['encoded']:,} newly encoded by {space['encoder']}"
        if space["truncated"]:
            line += f", {space['truncated']:,} texts longer than the encoder reads"
        if space["failed"]:
            line += f", {space['failed']:,} photos not readable (see {space['failures']}; the next run tries again)"
        lines.append(line)
        lines += [
            f"  {count:,} photos not read: set {setting} to read them"
            for setting, count in space["switched_off"].items()
        ]
    return Text("\n".join(lines))


def build_figures(report: "BuildReport", settings: "Settings") -> dict[str, Any]:
    """Return the figures of a build, for JSON."""
    return {
        "release": report.manifest.release,
        "published": report.published,
        "checks": report.checks,
        "items": report.manifest.items,
        "ingest": report.ingest,
        "encoded": [space_figures(space, settings) for space in report.spaces],
        "folded": report.folded.changed if report.folded else None,
        "spaces": {name: space.model_dump(exclude={"curve"}) for name, space in report.manifest.indexes.items()},
        "alignment": report.manifest.alignment,
        "plan": report.plan,
        "notes": report.notes,
        "seconds": report.seconds,
    }


def build_report(report: "BuildReport", settings: "Settings") -> RenderableType:
    """Render a build, stage by stage."""
    parts: list[RenderableType] = [ingest_report(report.ingest)] if report.ingest else []
    if latest := report.folded or report.ingest:
        changed = ", ".join(f"{count:,} {kind}" for kind, count in latest.changed.items())
        if changed or report.folded:
            parts.append(Text(f"live changes applied on top of the feed: {changed or 'none'}"))
    parts.append(encoding([space_figures(space, settings) for space in report.spaces]))
    if report.manifest.alignment is not None:
        parts.append(alignment(report.manifest.alignment))
    for name, space in report.manifest.indexes.items():
        parts.append(
            Text(
                f"index {name}: {space.factory}, {space.rows:,} vectors of {space.dim} dimensions, "
                f"recall@10 {space.recall10:.3f}, {space.latency_ms:.2f} ms a query, {space.bytes / 1e6:.1f} MB"
            )
        )
    took = " ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    if report.checks:
        parts.append(checks(report.checks))
    parts += [Text(note, "yellow") for note in report.notes]
    if report.refused:
        parts.append(_refusal(report.manifest.release))
    else:
        verb = "published" if report.published else "nothing changed, still"
        parts.append(Text.assemble((f"{verb} release {report.manifest.release}", "bold green"), f"  ({took})"))
    return Group(*parts)


def encoding_plan(plan: "EncodingPlan") -> RenderableType:
    """Render what the next build encodes anew, and what that costs."""
    lines = []
    for space in plan.spaces:
        if not space.reason:
            lines.append(f"{space.space}: {space.encoder}, as in the active release; only new content is encoded")
            continue
        change = space.encoder if space.before is None else f"{space.before} -> {space.encoder}"
        lines.append(f"{space.space}: {change} ({space.reason})")
        cost = f"  {space.contents:,} {'photos' if space.space == 'image' else 'texts'} to encode"
        if space.per_second is not None and space.seconds is not None:
            cost += f" at {space.per_second:,.1f} a second: about {_duration(space.seconds)}"
        elif space.contents:
            cost += ", at an unknown rate: none of a sample could be read"
        lines.append(f"{cost}, {space.bytes / 1e6:,.1f} MB")
    if plan.interrupted:
        lines.append(
            f"the active release cannot search {' and '.join(plan.interrupted)} any more, but in processes that have "
            "loaded the old files: to serve on meanwhile, put these back, and the new ones under another name"
        )
    elif plan.replaces:
        lines.append("the active release serves with its own encoders until the new one is published")
    return Text("\n".join([*lines, *plan.notes]))


def _duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours."""
    unit, name = (1, "s") if seconds < 120 else (60, "min") if seconds < 7200 else (3600, "h")
    return f"{seconds / unit:.0f} {name}"


def alignment(facts: "AlignmentMetadata") -> RenderableType:
    """Render how well texts and photos enter the image space, measured on held-out products."""
    lines = []
    for kind, evaluation, k, size in (
        ("texts", facts.of_words, 10, f"{facts.pairs:,} items with photo and text"),
        ("photos", facts.of_photos, 1, f"{facts.photographed:,} products with several photos"),
    ):
        if evaluation is None:
            lines.append(f"alignment of {kind}: {size}, too few to learn from")
        else:
            verdict = "used" if evaluation.better else "not used, as it is not significantly better"
            lines.append(
                f"alignment of {kind}: recall@{k} {evaluation.before:.3f} -> {evaluation.after:.3f} on "
                f"{evaluation.queries:,} held-out queries, {verdict}"
            )
    return Text("\n".join(lines))


def fine_tuning(report: "LoraReport") -> RenderableType:
    """Render a fine-tuning of the image encoder, and how to use its weights."""
    size = f"{report.pairs:,} items with photo and text"
    if report.refused:
        size += f", {report.refused:,} photos not readable"
    evaluation = report.of_words
    if evaluation is None:
        return Text(f"{size}: too few products to learn from")
    line = (
        f"texts: recall@10 {evaluation.before:.3f} -> {evaluation.after:.3f} on {evaluation.queries:,} held-out "
        f"queries, learned from {size}"
    )
    if report.weights is None:
        return Text(f"{line}: not significantly better, no weights were written")
    return Text(f'{line}\nto use the weights, set image_encoder = "open_clip:local-dir:{report.weights}" and build')


def checks(measured: "Sequence[Check]") -> RenderableType:
    """Render how a release measures beside the active one."""
    columns = [
        Column("check"),
        *(Column(name, "right") for name in ("active", "release", "difference, 95 %", "cases", "verdict")),
    ]
    rows = []
    for check in measured:
        interval = "" if check.low is None else f"{check.low:+.4f} to {check.high:+.4f}"
        verdict = Text("worse", "bold red") if check.worse else Text("✓", "green")
        rows.append(
            (check.name, f"{check.parent:.4f}", f"{check.release:.4f}", interval, f"{check.cases or ''}", verdict)
        )
    return FittedTable(columns, rows)


def publication(report: Mapping[str, Any]) -> RenderableType:
    """Render whether a release was published, and how it measured."""
    parts: list[RenderableType] = [checks(report["checks"])] if report["checks"] else []
    if report["published"]:
        parts.append(Text(f"release {report['release']} is active", "bold green"))
    else:
        parts.append(_refusal(report["release"]))
    return Group(*parts)


def duplicates(report: "DuplicatesReport") -> RenderableType:
    """Render the largest groups of items with the same photo, and how many groups there are."""
    summary = f"{len(report.groups):,} groups among {report.images:,} photos, {report.compared:,} pairs compared"
    if report.refused:
        summary += f", {report.refused:,} photos not readable"
    if not report.groups:
        return Text(summary)
    rows = [
        (f"{len(group)}", ", ".join(image.item_id for image in group[:3]), group[0].title or "")
        for group in sorted(report.groups, key=len, reverse=True)[:MAX_GROUPS]
    ]
    columns = [Column("items", "right"), Column("first ids", style="cyan"), Column("title", flexible=True)]
    return Group(FittedTable(columns, rows), Text(summary))


def releases(listed: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Render the releases on disk, newest first."""
    if not listed:
        return Text("no release yet: run vetrina build FEED", style="dim")
    columns = [
        Column("active"),
        Column("release"),
        Column("created (UTC)"),
        Column("items", "right"),
        Column("feed"),
        Column("spaces and their recall@10", flexible=True, wrap=True),
    ]
    rows = [
        (
            "→" if release["current"] else "",
            release["release"],
            release["created_at"][:16].replace("T", " "),
            f"{release['items']:,}",
            release["feed"],
            ", ".join(
                f"{name} {space['factory']} {space['recall10']:.3f}" for name, space in release["spaces"].items()
            ),
        )
        for release in listed
    ]
    return FittedTable(columns, rows)


def _refusal(release: str) -> RenderableType:
    return Text(
        f"release {release} measures worse than the active one and was not published; to publish it all the same: "
        f"vetrina publish {release} --force",
        "bold red",
    )
