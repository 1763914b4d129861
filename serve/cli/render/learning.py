"""Renders events, trainings, evaluations, A/B tests and erasures."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from serve.cli.render.catalogue import checks
from serve.cli.render.table import Column, FittedTable

if TYPE_CHECKING:
    from serve.evaluation.ab_report import ABReport
    from serve.evaluation.evaluate import Evaluation
    from serve.evaluation.exposure import Exposure
    from serve.evaluation.off_policy_report import OffPolicyReport
    from serve.evaluation.ranking_metrics import RankingMetrics
    from serve.jobs.compact import CompactionReport
    from serve.jobs.import_events import ImportReport
    from serve.storage.erasure import ErasureCounts
    from serve.storage.quarantine import QuarantinedUser
    from serve.training.scorer_job import ScorerReport
    from serve.training.tower_tuning import TuningReport
    from serve.training.towers_job import TrainingReport


def events_report(report: "ImportReport") -> RenderableType:
    """Render how many events of a file were stored and rejected."""
    lines = [
        f"{report.file}: {report.read:,} read = {report.stored:,} stored + {report.duplicates:,} already stored "
        f"+ {report.rejected:,} rejected"
    ]
    lines += [f"  rejected {count:,} × {code}" for code, count in report.rejects.items()]
    return Text("\n".join(lines))


def training_report(report: "TrainingReport") -> RenderableType:
    """Render what towers were trained on, how validation measured them, and the weights of the retrievers."""
    counts, split = report.collected, report.split
    lines = [
        f"{counts.events:,} events = {counts.interactions:,} interactions + {counts.impressions:,} impressions + "
        f"{counts.pending:,} of items not in the catalogue + {counts.merged:,} duplicates of an interaction + "
        f"{counts.cut:,} beyond the limit of one user",
        f"validation: {split['validation_users']:,} users, towers alone NDCG@10 {report.validation['ndcg10']:.4f}, "
        f"recall@10 {report.validation['recall10']:.4f}, at epoch {report.epochs}",
        "weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in report.score_model.weights.items()),
    ]
    done = Text.assemble((f"towers {report.fingerprint}", "bold green"), f"  ({report.seconds:.0f} s)")
    return Group(Text("\n".join(lines)), done)


def quarantine(listed: "Sequence[QuarantinedUser]") -> RenderableType:
    """Render the users who are or were in quarantine, and why."""
    if not listed:
        return Text("no users", style="dim")
    columns = [Column("user"), Column("since (UTC)"), Column("released (UTC)"), Column("reason")]
    rows = [(entry.user_id, _minute(entry.since), _minute(entry.released), entry.reason) for entry in listed]
    return FittedTable(columns, rows)


def off_policy(report: "OffPolicyReport") -> RenderableType:
    """Render the logged value of a list, and what the release would have earned by each estimator."""
    estimates = report.estimates
    columns = [Column("value of a list"), Column("mean", "right"), Column("95 % interval", "right", "dim")]
    rows = [
        (name, f"{estimate.mean:.4f}", f"{estimate.low:.4f}–{estimate.high:.4f}")
        for name, estimate in (
            ("logged", estimates.logged),
            ("IPS", estimates.ips),
            ("SNIPS", estimates.snips),
            ("doubly robust", estimates.dr),
        )
    ]
    summary = (
        f"{estimates.lists:,} lists, an effective sample of {estimates.effective:,.0f} for this release; "
        f"{report.excluded:,} excluded"
    )
    return Group(Text(f"release {report.release}", "bold"), FittedTable(columns, rows), Text(summary, "dim"))


def erasure(counts: "ErasureCounts") -> RenderableType:
    """Render what an erasure removed."""
    return Text(
        f"removed {counts.events:,} events, {counts.impressions:,} impressions and {counts.preferences} preferences"
    )


def scorer_report(report: "ScorerReport") -> RenderableType:
    """Render what a scorer was trained on, and how each head measures on held-out users."""
    columns = [
        Column("head"),
        *(Column(name, "right") for name in ("outcomes", "AUC", "log loss", "base log loss", "calibration error")),
    ]
    rows = [
        (
            name,
            f"{head.outcomes:,}",
            f"{head.auc:.3f}",
            f"{head.log_loss:.4f}",
            f"{head.base_log_loss:.4f}",
            f"{head.ece:.4f}",
        )
        for name, head in report.heads.items()
    ]
    learned = Text(f"{report.rows:,} candidates of {report.cases:,} lists, {report.epochs} epochs")
    done = Text.assemble((f"scorer {report.fingerprint}", "bold green"), f"  ({report.seconds:.0f} s)")
    return Group(learned, FittedTable(columns, rows), done)


def tuning_figures(report: "TuningReport") -> dict[str, Any]:
    """Return the figures of a tuning, for JSON."""
    return {
        "settings": report.settings.model_dump(),
        "ndcg10": report.ndcg10,
        "trials": report.trials,
        "pruned": report.pruned,
    }


def tuning_report(figures: Mapping[str, Any]) -> RenderableType:
    """Render the best settings, as they are written in vetrina.toml."""
    settings = "\n".join(f"{name} = {value}" for name, value in figures["settings"].items())
    trials = (
        f"{figures['trials']} trials, {figures['pruned']} of them stopped early; the best has NDCG@10 "
        f"{figures['ndcg10']:.4f}"
    )
    return Text(f"{trials}; for vetrina.toml:\n\n[towers]\n{settings}")


def evaluation(measured: "Evaluation") -> RenderableType:
    """Render each system on the whole test, best last, then on slices of it."""
    split = measured.split
    lifts = [
        f"reranked minus {name}: {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        for name, (mean, low, high) in measured.lifts.items()
    ]
    baseline_lifts = [
        f"what is served minus {name}: {mean:+.4f} ({low:+.4f} to {high:+.4f})"
        for name, (mean, low, high) in measured.baseline_lifts.items()
    ]
    heads = [
        f"{name}: AUC {head.auc:.3f}, log loss {head.log_loss:.4f} (base rate {head.base_log_loss:.4f}), calibration "
        f"error {head.ece:.4f}"
        for name, head in measured.heads.items()
    ]
    tables: list[RenderableType] = []
    for part, systems in {"all users": measured.systems, **measured.slices}.items():
        users = next(iter(systems.values())).users
        tables += [Text(f"{part} ({users:,})", "bold"), _systems(systems)]
    return Group(
        Text(
            f"trained on {split['train_interactions']:,} interactions of {split['train_users']:,} users; "
            f"tested on {split['test_targets']:,} items that {split['test_users']:,} users liked later"
        ),
        *tables,
        *_exposure(measured.exposure),
        Text("NDCG@10 beside the baselines", "bold"),
        Text("\n".join(baseline_lifts)),
        *([Text("NDCG@10 of the scorer", "bold"), Text("\n".join([*lifts, *heads]))] if lifts else []),
        Text("intervals: 95 % bootstrap over users; new: share of shown items without any earlier interaction", "dim"),
    )


def _systems(systems: "Mapping[str, RankingMetrics]") -> RenderableType:
    columns = [
        Column("system"),
        Column("NDCG@10", "right"),
        Column("95 % interval", "right", "dim"),
        *(Column(name, "right") for name in ("R@10", "R@100", "MRR", "coverage", "novelty", "new")),
    ]
    rows = []
    for name, system in sorted(systems.items(), key=lambda each: each[1].means["ndcg10"]):
        low, high = system.intervals["ndcg10"]
        means = system.means
        rows.append(
            (
                name,
                f"{means['ndcg10']:.4f}",
                f"{low:.4f}–{high:.4f}",
                f"{means['recall10']:.4f}",
                f"{means['recall100']:.4f}",
                f"{means['mrr']:.4f}",
                f"{system.coverage:.3f}",
                f"{system.novelty:.1f}",
                f"{system.new_items:.3f}",
            )
        )
    return FittedTable(columns, rows)


def _exposure(exposure: "Exposure") -> list[RenderableType]:
    """Render which groups of items recommendations show, and how unevenly each system shows items."""
    parts: list[RenderableType] = []
    for kind, groups in exposure.groups.items():
        columns = [
            Column(f"first ten by {kind}"),
            *(Column(name, "right") for name in ("share of items", "of liked", "of shown")),
        ]
        rows = [(group.name, *(f"{share:.3f}" for share in (group.items, group.liked, group.seen))) for group in groups]
        parts.append(FittedTable(columns, rows))
    gini = ", ".join(f"{name} {value:.3f}" for name, value in exposure.gini.items())
    return [*parts, Text(f"Gini coefficient of shown items: {gini}", "dim")]


def learn_report(figures: Mapping[str, Any]) -> RenderableType:
    """Render what was new, how the new scorer measures beside the old one, and whether it was published."""
    if not figures["fingerprint"]:
        return Text(f"{figures['users']} users liked new items since the last training: too few to learn from")
    learned = Text(f"learned from {figures['rows']:,} rows in {figures['epochs']} epochs, {figures['seconds']:.0f} s")
    verdict = Text("worse than the previous scorer, which stays", "bold red")
    if figures["published"]:
        verdict = Text(f"published release {figures['release']}", "bold green")
    elif figures["accepted"]:
        verdict = Text("kept: the next vetrina build uses it", "green")
    return Group(checks(figures["checks"]), learned, verdict)


def ab_report(comparison: "ABReport") -> RenderableType:
    """Render both arms of an A/B test side by side."""
    columns = [
        Column("per list"),
        *(Column(name, "right") for name in (*comparison.arms, "difference, 95 %", "P(better)")),
    ]
    rows = [
        (
            name,
            *(f"{arm.means[name]:.4f}" for arm in comparison.arms.values()),
            f"{difference.low:+.4f} to {difference.high:+.4f}",
            f"{difference.better:.0%}",
        )
        for name, difference in comparison.differences.items()
    ]
    sizes = [f"{part}: {arm.users:,} users, {arm.lists:,} lists" for part, arm in comparison.arms.items()]
    sizes.append(f"{comparison.excluded} users got responses of both releases and are excluded")
    title = Text(f"release {comparison.experiment.release} is tested", "bold")
    return Group(title, FittedTable(columns, rows), Text("; ".join(sizes), "dim"))


def compaction(report: "CompactionReport") -> RenderableType:
    """Render what a compaction moved and deleted."""
    moved = Text(
        f"moved {report.events:,} impression events and {report.impressions:,} logged impressions into files, deleted "
        f"{report.deleted:,} rows"
    )
    if not report.unknown_files:
        return moved
    names = ", ".join(report.unknown_files)
    return Group(moved, Text(f"moved unknown files to history/unknown, delete them if not needed: {names}", "yellow"))


def _minute(timestamp: float | None) -> str:
    return "" if timestamp is None else datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M")
