"""How what was learned looks in a terminal: tables and short sentences, for people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serve.cli.render.results import checks

if TYPE_CHECKING:
    from serve.evaluation.ab_report import Comparison
    from serve.evaluation.evaluate import Evaluation
    from serve.evaluation.exposure import Exposure
    from serve.evaluation.off_policy_report import OffPolicyReport
    from serve.jobs.compact import CompactionReport
    from serve.jobs.import_events import ImportReport
    from serve.storage.erasure import ErasureCounts
    from serve.storage.event_log import Quarantined
    from serve.training.scorer_job import ScorerReport
    from serve.training.tower_tuning import TuningReport
    from serve.training.towers_job import TrainingReport


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
        f"{of.events:,} events = {of.interactions:,} interactions + {of.impressions:,} impressions + {of.pending:,} of "
        f"items not in the catalogue + {of.merged:,} signs of the same act + {of.cut:,} beyond what one shopper counts",
        f"validation: {split['validation_shoppers']:,} shoppers, towers alone NDCG@10 "
        f"{report.validation['ndcg10']:.4f}, recall@10 {report.validation['recall10']:.4f}, at epoch {report.epochs}",
        "weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in report.score_model.weights.items()),
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


def judgement(of: "OffPolicyReport") -> RenderableType:
    """What was earned, and what the release would have by each estimator."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("worth of a list", "", "95 %"):
        table.add_column(name, justify="left" if name == "worth of a list" else "right", no_wrap=True)
    found = of.estimates
    rows = {"earned": found.logged, "IPS": found.ips, "SNIPS": found.snips, "doubly robust": found.dr}
    for name, one in rows.items():
        table.add_row(name, f"{one.mean:.4f}", Text(f"{one.low:.4f}–{one.high:.4f}", "dim"))
    foot = f"{found.lists:,} lists, worth {found.effective:,.0f} for this release; {of.excluded:,} left out"
    return Group(Text(f"release {of.release}", "bold"), table, Text(foot, "dim"))


def removed(of: "ErasureCounts") -> RenderableType:
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
        users = next(iter(systems.values())).users
        table.add_row(Text(f"{part} ({users:,})", "bold"))
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
        *_exposure(found.exposure),
        *([Text("NDCG@10 of the scorer", "bold"), Text("\n".join([*lifts, *heads]))] if lifts else []),
        Text("intervals: 95 % bootstrap over shoppers; new: share of the items shown that nobody had had", "dim"),
    )


def _exposure(found: "Exposure") -> list[RenderableType]:
    """Who is seen in answers as served, and how unevenly by system."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("seen in the first ten", "of the items", "of what was liked", "of what is seen"):
        table.add_column(name, justify="left" if name.startswith("seen") else "right", no_wrap=True)
    for kind, groups in found.groups.items():
        table.add_row(Text(kind, "bold"))
        for of in groups:
            table.add_row(of.name, *(f"{share:.3f}" for share in (of.items, of.liked, of.seen)))
    told = ", ".join(f"{name} {value:.3f}" for name, value in found.gini.items())
    return [table, Text(f"Gini coefficient of what is seen: {told}", "dim")]


def learn_report(found: dict[str, Any]) -> RenderableType:
    """What there was to learn, how the new scorer measures beside the old one, and whether it answers now."""
    if not found["fingerprint"]:
        return Text(f"{found['shoppers']} shoppers liked anything new since the last time: too few to learn from")
    learned = Text(f"learned from {found['rows']:,} rows in {found['epochs']} epochs, {found['seconds']:.0f} s")
    verdict = Text("worse than the one before, which stays", "bold red")
    if found["published"]:
        verdict = Text(f"published release {found['release']}", "bold green")
    elif found["kept"]:
        verdict = Text("kept; the next vetrina build takes it into its release", "green")
    return Group(checks(found["checks"]), learned, verdict)


def comparison(of: "Comparison") -> RenderableType:
    """Both parts of an A/B test side by side."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("a list", *of.arms, "difference, 95 %", "better"):
        table.add_column(name, justify="left" if name == "a list" else "right", no_wrap=True)
    for name, gained in of.differences.items():
        means = [f"{arm.means[name]:.4f}" for arm in of.arms.values()]
        table.add_row(name, *means, f"{gained.low:+.4f} to {gained.high:+.4f}", f"{gained.better:.0%}")
    sizes = [f"{part}: {arm.users:,} shoppers, {arm.lists:,} lists" for part, arm in of.arms.items()]
    sizes.append(f"{of.excluded} shoppers were answered by both and are left out")
    return Group(Text(f"release {of.experiment.release} is tried", "bold"), table, Text("; ".join(sizes), "dim"))


def moved(of: "CompactionReport") -> RenderableType:
    """What a compaction did."""
    return Text(f"moved {of.events:,} impressions and {of.answers:,} answers into files, deleted {of.deleted:,} rows")
