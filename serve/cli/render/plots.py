"""Draws plots: items with photos, layouts of spaces, training curves, and the measurements of a release.

Functions that take matplotlib axes, or make a pyplot figure, are for notebooks; those that take a path write a file.
"""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from embed.catalogue import Item
from embed.errors import BadInput
from embed.images import ImageSource, decode_image
from index.faiss_files import principal_axes
from index.tuning import TuningPoint
from serve.evaluation.evaluate import FUSED, RERANKED, SERVED, Evaluation
from serve.recommend.ranking.explanations import Reasons
from serve.recommend.ranking.scorer import HeadMetrics
from serve.release.manifest import SpaceEntry

OURS, OTHER, ACCENT, PLAIN = "#014f86", "#61a5c2", "#e0a458", "#b8b8b8"
"""Distinguishable with colour blindness, and by their lightness in print."""
STYLE = {
    "figure.dpi": 100,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler('color', ['{OURS}', '{ACCENT}', '{OTHER}', '#7a5195', '{PLAIN}'])",
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
}
"""The style of the notebooks, for `pyplot.rcParams.update`."""
ROW_HEIGHT = 1.7  # of a row of photos with its texts, in widths of a photo


def draw_items(rows: Mapping[str, Sequence[tuple[Item | Image, str]]], source: ImageSource) -> None:
    """Draw a titled row of photos for each entry, with a caption under each photo, as a pyplot figure.

    Photos of items are read from `source`.
    """
    from matplotlib import pyplot as plt

    longest = max(len(row_items) for row_items in rows.values())
    _, axis = plt.subplots(figsize=(1.4 * longest, 2.35 * len(rows)))
    for number, (title, row_items) in enumerate(rows.items()):
        top = number * ROW_HEIGHT
        axis.text(0, top, title, fontsize=10)
        for column, (shown, caption) in enumerate(row_items):
            x, y = column + 0.48, top + 0.6  # the middle of the photo
            text = "\n".join(textwrap.fill(line, 21) for line in caption.split("\n"))
            axis.text(x, top + 1.12, text, fontsize=7, ha="center", va="top")
            photo = _first_photo(shown, source) if isinstance(shown, Item) else shown
            if photo is None:
                axis.text(x, y, "no photo", fontsize=8, ha="center", va="center")
                continue
            across, down = (0.47 * side / max(photo.size) for side in photo.size)
            axis.imshow(photo, extent=(x - across, x + across, y + down, y - down))
    axis.set(xlim=(0, longest), ylim=(len(rows) * ROW_HEIGHT, -0.15))
    axis.set_axis_off()


def _first_photo(item: Item, source: ImageSource) -> Image | None:
    """Read an item's first photo; None if it cannot be read."""
    try:
        return decode_image(source.read(item.images[0]), source.limits, shrink_to=160)
    except (IndexError, BadInput):
        return None


def principal_plane(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Project n vectors [n, d] onto their first two principal components, [n, 2]; also return the share of variance."""
    centred = vectors - vectors.mean(axis=0)
    axes, variance = principal_axes(centred)
    return centred @ axes[:, :2], float(variance[1])


def draw_groups(axis: Any, points: NDArray[np.float32], groups: Sequence[str], max_named: int = 12) -> None:
    """Draw n points [n, 2] by group into matplotlib axes; the `max_named` largest groups have their name beside them.

    A group has the same colour and shape wherever the same groups are drawn; all smaller groups are grey.
    """
    import matplotlib as mpl

    named = sorted(name for name, _ in Counter(groups).most_common(max_named))
    group = np.array([named.index(name) if name in named else -1 for name in groups])
    axis.scatter(*points[group < 0].T, s=8, color=PLAIN, alpha=0.6)
    middles = np.array([np.median(points[group == number], axis=0) for number in range(len(named))])
    apart, lowest = 0.045 * np.ptp(points[:, 1]), -np.inf
    for number in np.argsort(middles[:, 1]):
        colour = mpl.color_sequences["petroff10"][number % 10]
        axis.scatter(*points[group == number].T, s=14, color=colour, marker="os^D"[number % 4], alpha=0.7, linewidths=0)
        x, lowest = middles[number, 0], max(middles[number, 1], lowest + apart)  # names do not overlap
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour, "alpha": 0.8}
        axis.text(x, lowest, named[number], size=8, ha="center", va="center", bbox=box)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def training_curves(folder: Path) -> dict[str, list[float]]:
    """Read the TensorBoard log of a training (see embed.training_loop): by name, the value after each epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    read = EventAccumulator(str(folder)).Reload()
    return {name: [event.value for event in read.Scalars(name)] for name in read.Tags()["scalars"]}


def draw_curves(spaces: Mapping[str, SpaceEntry], path: Path) -> bool:
    """Draw recall@10 against queries per second of every index that was tried; False if none was."""
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
        by_factory = groupby(
            sorted((p for p in entry.curve if p.rows == rows), key=_by_factory_and_recall), lambda p: p.factory
        )
        for number, (factory, points) in enumerate(by_factory):
            best = _pareto_front(list(points))
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
        axis.set_ylabel("queries per second, one thread, one at a time")
        axis.set_title(f"{name}: {rows:,} rows of {entry.dim}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, title="index · bytes per vector")
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def _by_factory_and_recall(point: TuningPoint) -> tuple[str, float]:
    return point.factory, point.recall10


def _pareto_front(points: list[TuningPoint]) -> list[TuningPoint]:
    """Return the points of one index that no other point beats in both speed and recall, by ascending recall."""
    front: list[TuningPoint] = []
    for point in sorted(points, key=lambda p: (-p.recall10, -p.queries_per_s)):
        if not front or point.queries_per_s > front[-1].queries_per_s:
            front.append(point)
    return front[::-1]


def draw_reliability(axis: Any, heads: Mapping[str, HeadMetrics]) -> None:
    """Draw the observed rate of each head against its predicted probability into matplotlib axes."""
    for name, head in heads.items():
        predicted, observed, _ = zip(*head.reliability, strict=True)
        axis.plot(predicted, observed, marker="o", markersize=3, label=f"{name} (ECE {head.ece:.3f})")
    axis.axline((1e-3, 1e-3), slope=1, color="#b8b8b8", linewidth=1)
    axis.set_xlabel("predicted probability")
    axis.set_ylabel("observed rate")
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def draw_reasons(axis: Any, reasons: Sequence[Reasons], names: Sequence[str], max_parts: int = 4) -> None:
    """Draw the parts of m named scores as bars into matplotlib axes, the `max_parts` largest parts each by itself.

    `history` is what the user's own interactions add. Negative parts lie below zero.
    """
    rows = [{"history": sum(interaction.value for interaction in reason.history), **reason.parts} for reason in reasons]
    parts = {
        name: np.array([row.get(name, 0.0) for row in rows]) for name in sorted({name for row in rows for name in row})
    }
    largest = sorted(parts, key=lambda name: -float(np.abs(parts[name]).sum()))
    shown = {name: parts[name] for name in largest[:max_parts]}
    shown["the rest"] = np.sum([np.zeros(len(rows)), *(parts[name] for name in largest[max_parts:])], axis=0)
    ends, positions = np.zeros((2, len(rows))), np.arange(len(rows))  # the ends of the bars below and above zero
    for name, values in shown.items():
        side = (values > 0).astype(int)
        axis.barh(positions, values, left=ends[side, positions], label=name)
        ends[side, positions] += values
    axis.set_yticks(positions, names)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlabel("part of the score")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def draw_systems(axis: Any, evaluation: Evaluation) -> None:
    """Draw NDCG@10 of each system with its interval as bars into matplotlib axes; baselines have another colour."""
    systems = sorted(evaluation.systems.items(), key=lambda each: each[1].means["ndcg10"])
    for position, (name, system) in enumerate(systems):
        mean, (low, high) = system.means["ndcg10"], system.intervals["ndcg10"]
        colour = OURS if name in (FUSED, RERANKED, SERVED) else PLAIN if name in evaluation.baselines else OTHER
        axis.barh(position, mean, color=colour, height=0.7)
        axis.errorbar(mean, position, xerr=[[mean - low], [high - mean]], color="black", capsize=3, linewidth=1)
        axis.annotate(f"{mean:.4f}", (high, position), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(systems)), [name for name, _ in systems])
    axis.set_xlabel(f"NDCG@10 of {next(iter(evaluation.systems.values())).users:,} held-out users, 95 % intervals")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)


def draw_evaluation(evaluation: Evaluation, file: Path) -> None:
    """Draw NDCG@10 of each system with its interval into a PNG or SVG file.

    If a scorer was trained, its calibration is drawn beside them.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = 1 + bool(evaluation.heads)
    size = 4 + 4 * columns, 0.4 * len(evaluation.systems) + 1.6
    figure, ((axis, *beside),) = plt.subplots(1, columns, figsize=size, squeeze=False)
    draw_systems(axis, evaluation)
    for other in beside:
        draw_reliability(other, evaluation.heads)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    plt.close(figure)
