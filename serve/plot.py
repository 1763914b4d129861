"""Pictures of what a release measured."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from index.tuning import Point
from serve.evaluation.evaluate import FUSED, RERANKED, SERVED, Evaluation
from serve.rank.scorer import HeadFacts
from serve.release import SpaceEntry


def draw_curves(spaces: Mapping[str, SpaceEntry], path: Path) -> bool:
    """Draw recall@10 against queries a second for every index that was tried; False where none had to be."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tuned = {name: entry for name, entry in spaces.items() if entry.curve}
    if not tuned:
        return False
    figure, axes = plt.subplots(1, len(tuned), figsize=(9 * len(tuned), 6), squeeze=False, layout="constrained")
    for axis, (name, entry) in zip(axes[0], tuned.items(), strict=True):
        rows = max(point.rows for point in entry.curve)
        colours = mpl.color_sequences["tab20"]
        by_factory = groupby(sorted((p for p in entry.curve if p.rows == rows), key=_place), lambda p: p.factory)
        for number, (factory, points) in enumerate(by_factory):
            best = _envelope(list(points))
            chosen = factory == entry.factory
            axis.plot(
                [point.recall10 for point in best],
                [point.queries_per_s for point in best],
                marker="o",
                markersize=4,
                color=colours[number % len(colours)],
                linewidth=3 if chosen else 1.2,
                label=f"{factory} · {best[0].bytes_per_vector:.0f} B" + (" · chosen" if chosen else ""),
            )
        axis.axvline(entry.recall_target, color="grey", linestyle="--", linewidth=1)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.yaxis.set_minor_formatter("{x:,.0f}")
        axis.set_xlim(left=max(0.5, min(point.recall10 for point in entry.curve)))
        axis.set_xlabel("recall@10 against exact search")
        axis.set_ylabel("queries a second, one thread, one at a time")
        axis.set_title(f"{name}: {rows:,} rows of {entry.dim}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, title="index · bytes a vector")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def _place(point: Point) -> tuple[str, float]:
    return point.factory, point.recall10


def _envelope(points: list[Point]) -> list[Point]:
    """The points of one index than which none is both faster and better, by rising recall."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.recall10, -p.queries_per_s)):
        if not kept or point.queries_per_s > kept[-1].queries_per_s:
            kept.append(point)
    return kept[::-1]


def draw_reliability(axis: Any, heads: Mapping[str, HeadFacts]) -> None:
    """Draw, of each head, the share that happened against the probability that was given, into matplotlib axes."""
    for name, head in heads.items():
        said, was, _ = zip(*head.reliability, strict=True)
        axis.plot(said, was, marker="o", markersize=3, label=f"{name} (ECE {head.ece:.3f})")
    axis.axline((1e-3, 1e-3), slope=1, color="#b8b8b8", linewidth=1)
    axis.set_xlabel("probability given")
    axis.set_ylabel("share that happened")
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def draw_evaluation(found: Evaluation, file: Path) -> None:
    """Write bars of NDCG@10 with their intervals, the baselines in another colour, to a PNG or SVG file.

    Beside them, where a scorer was trained, how its probabilities hold.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    systems = sorted(found.systems.items(), key=lambda each: each[1].means["ndcg10"])
    height = 0.4 * len(systems) + 1.6
    columns = 1 + bool(found.heads)
    figure, ((axis, *beside),) = plt.subplots(1, columns, figsize=(4 + 4 * columns, height), squeeze=False)
    for place, (name, of) in enumerate(systems):
        mean, (low, high) = of.means["ndcg10"], of.intervals["ndcg10"]
        colour = "#014f86" if name in (FUSED, RERANKED, SERVED) else "#b8b8b8" if name in found.baselines else "#61a5c2"
        axis.barh(place, mean, color=colour, height=0.7)
        axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color="black", capsize=3, linewidth=1)
        axis.annotate(f"{mean:.4f}", (high, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(systems)), [name for name, _ in systems])
    axis.set_xlabel(f"NDCG@10 of {next(iter(found.systems.values())).shoppers:,} held-out shoppers, 95 % intervals")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)
    for one in beside:
        draw_reliability(one, found.heads)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    plt.close(figure)
