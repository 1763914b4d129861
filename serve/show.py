"""How results look in a terminal: tables and short sentences, for people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from embed.catalogue import IngestReport
from embed.encode_job import SpaceVectors

if TYPE_CHECKING:
    from serve.bulk import BulkReport
    from serve.doctor import Finding
    from serve.evaluation.evaluate import Evaluation
    from serve.evaluation.judge import Judgement
    from serve.learn.event_store import Quarantined
    from serve.learn.import_events import ImportReport
    from serve.learn.rights import Erased
    from serve.learn.scorer_job import ScorerReport
    from serve.learn.towers_job import TrainingReport
    from serve.learn.tuning import TuningReport
    from serve.pipeline import BuildReport

MOST_COLUMNS = 3  # of sources, beside which there is room for a title
MARKS = {"good": ("✓", "green"), "off": ("–", "dim"), "wrong": ("✗", "bold red")}


def answer(found: dict[str, Any]) -> RenderableType:
    """Found items, best first, with where their score comes from."""
    items = found["items"]
    if not items:
        return Text("nothing found", style="dim")
    spaces = sorted({space for item in items for space in item["sources"]})
    if len(spaces) > MOST_COLUMNS:  # of recommendations: the JSON has them
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
        each = [f"{item['sources'][space]:.2f}" if space in item["sources"] else "" for space in spaces]
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


def price(item: dict[str, Any]) -> str:
    return "" if item["price"] is None else f"{item['price']:,.2f} {item['currency'] or ''}".rstrip()


def ingest_report(report: IngestReport) -> RenderableType:
    """What became of a feed's records."""
    lines = [f"{report.feed}: {report.read:,} read = {report.kept:,} kept + {report.rejected:,} rejected"]
    lines += [f"  rejected {count:,} × {code}" for code, count in report.rejects.items()]
    lines += [f"  repaired {count:,} × {kind}" for kind, count in report.repaired.items()]
    if report.ignored_columns:
        lines.append(f"  columns not used: {', '.join(report.ignored_columns)} (take them in with --mapping)")
    return Text("\n".join(lines))


def space_figures(space: SpaceVectors) -> dict[str, Any]:
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
        "items": report.manifest.items,
        "ingest": report.ingest,
        "encoded": [space_figures(space) for space in report.spaces],
        "folded": report.folded.changed if report.folded else None,
        "spaces": {name: space.model_dump(exclude={"curve"}) for name, space in report.manifest.indexes.items()},
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
    for name, space in report.manifest.indexes.items():
        parts.append(
            Text(
                f"index {name}: {space.factory}, {space.rows:,} × {space.dim}, recall@10 {space.recall10:.3f}, "
                f"{space.latency_ms:.2f} ms a query, {space.bytes / 1e6:.1f} MB"
            )
        )
    took = " ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    verb = "published" if report.published else "nothing changed, still"
    parts.append(Text.assemble((f"{verb} release {report.manifest.release}", "bold green"), f"  ({took})"))
    return Group(*parts)


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


def events_report(report: "ImportReport") -> RenderableType:
    """What became of a file's events."""
    lines = [
        f"{report.file}: {report.read:,} read = {report.stored:,} stored + {report.duplicates:,} there already "
        f"+ {report.rejected:,} rejected"
    ]
    lines += [f"  rejected {count:,} × {code}" for code, count in report.rejects.items()]
    return Text("\n".join(lines))


def training_report(report: "TrainingReport") -> RenderableType:
    """What was learned from, what validation said, and how the sources are weighed."""
    of, split = report.collected, report.split
    lines = [
        f"{of.events:,} events = {of.interactions:,} interactions + {of.impressions:,} impressions + {of.parked:,} of "
        f"items not in the catalogue + {of.merged:,} signs of the same act + {of.cut:,} beyond what one shopper counts",
        f"validation: {split['validation_shoppers']:,} shoppers, towers alone NDCG@10 "
        f"{report.validation['ndcg10']:.4f}, recall@10 {report.validation['recall10']:.4f}, at epoch {report.epochs}",
        "weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in report.blend.weights.items()),
    ]
    done = Text.assemble((f"towers {report.fingerprint}", "bold green"), f"  ({report.seconds:.0f} s)")
    return Group(Text("\n".join(lines)), done)


def quarantine(listed: "Sequence[Quarantined]") -> RenderableType:
    """Who is in quarantine or was, and why."""
    if not listed:
        return Text("nobody", style="dim")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("user", "since", "released", "why"):
        table.add_column(name)
    for one in listed:
        times = (one.since, one.released)
        told = ["" if of is None else datetime.fromtimestamp(of, UTC).strftime("%Y-%m-%d %H:%M") for of in times]
        table.add_row(one.user_id, *told, one.reason)
    return table


def judgement(of: "Judgement") -> RenderableType:
    """What was earned, and what the release would have by each estimator."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("worth of a list", "", "95 %"):
        table.add_column(name, justify="left" if name == "worth of a list" else "right", no_wrap=True)
    found = of.estimates
    rows = {"earned": found.logged, "IPS": found.ips, "SNIPS": found.snips, "doubly robust": found.dr}
    for name, one in rows.items():
        table.add_row(name, f"{one.mean:.4f}", Text(f"{one.low:.4f}–{one.high:.4f}", "dim"))
    foot = f"{found.lists:,} lists, worth {found.effective:,.0f} for this release; {of.left_out:,} left out"
    return Group(Text(f"release {of.release}", "bold"), table, Text(foot, "dim"))


def removed(of: "Erased") -> RenderableType:
    """What an erasure removed."""
    return Text(f"removed {of.events:,} events, {of.answers:,} answers and {of.preferences} preferences")


def scorer_report(report: "ScorerReport") -> RenderableType:
    """What was learned from, and how each head measures on shoppers that it did not learn from."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("head", "outcomes", "AUC", "log loss", "of the base rate", "calibration error"):
        table.add_column(name, justify="left" if name == "head" else "right", no_wrap=True)
    for name, head in report.heads.items():
        table.add_row(
            name,
            f"{head.outcomes:,}",
            f"{head.auc:.3f}",
            f"{head.log_loss:.4f}",
            f"{head.base_log_loss:.4f}",
            f"{head.ece:.4f}",
        )
    learned = Text(f"{report.rows:,} candidates of {report.cases:,} lists, {report.epochs} epochs")
    done = Text.assemble((f"scorer {report.fingerprint}", "bold green"), f"  ({report.seconds:.0f} s)")
    return Group(learned, table, done)


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
    gone = Text("no longer there: " + ", ".join(before)) if before else Text("all are still there", "dim")
    return Group(table, gone)


def candidates_report(report: "BulkReport") -> RenderableType:
    """How many candidates were written where."""
    return Text(
        f"{report.rows:,} candidates of {report.users:,} users from release {report.release} in {report.file} "
        f"({report.seconds:.1f} s)"
    )


def tuning_figures(report: "TuningReport") -> dict[str, Any]:
    return {
        "settings": report.settings.model_dump(),
        "ndcg10": report.ndcg10,
        "trials": report.trials,
        "pruned": report.pruned,
    }


def tuning_report(found: dict[str, Any]) -> RenderableType:
    """The best settings as they are written in vetrina.toml."""
    settings = "\n".join(f"{name} = {value}" for name, value in found["settings"].items())
    trials = (
        f"{found['trials']} trials, {found['pruned']} of them cut short; the best has NDCG@10 {found['ndcg10']:.4f}"
    )
    return Text(f"{trials}; for vetrina.toml:\n\n[towers]\n{settings}")


def evaluation(found: "Evaluation") -> RenderableType:
    """Each system on the whole test, best last, then the slices."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("NDCG@10", "", "R@10", "R@100", "MRR", "coverage", "novelty", "new"):
        table.add_column(name, justify="right", no_wrap=True)
    for part, systems in {"all shoppers": found.systems, **found.slices}.items():
        shoppers = next(iter(systems.values())).shoppers
        table.add_row(Text(f"{part} ({shoppers:,})", "bold"))
        for name, of in sorted(systems.items(), key=lambda each: each[1].means["ndcg10"]):
            low, high = of.intervals["ndcg10"]
            means = of.means
            table.add_row(
                name,
                f"{means['ndcg10']:.4f}",
                Text(f"{low:.4f}–{high:.4f}", "dim"),
                f"{means['recall10']:.4f}",
                f"{means['recall100']:.4f}",
                f"{means['mrr']:.4f}",
                f"{of.coverage:.3f}",
                f"{of.novelty:.1f}",
                f"{of.new_items:.3f}",
            )
    split = found.split
    lifts = [
        f"reranked less {name}: {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        for name, (mean, low, high) in found.lifts.items()
    ]
    heads = [
        f"{name}: AUC {head.auc:.3f}, log loss {head.log_loss:.4f} (base rate {head.base_log_loss:.4f}), calibration "
        f"error {head.ece:.4f}"
        for name, head in found.heads.items()
    ]
    return Group(
        Text(
            f"learned from {split['train_interactions']:,} interactions of {split['train_shoppers']:,} shoppers; "
            f"tested with {split['test_targets']:,} items liked by {split['test_shoppers']:,} shoppers later"
        ),
        table,
        *([Text("NDCG@10 of the scorer", "bold"), Text("\n".join([*lifts, *heads]))] if lifts else []),
        Text("intervals: 95 % bootstrap over shoppers; new: share of the items shown that nobody had had", "dim"),
    )
