"""Pictures of a shop: its items, how its spaces are laid out, how training went, and what a release measured.

What takes axes, or makes a figure of pyplot's, is for notebooks; what takes a path writes a file.
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
from index.faiss_index import principal_axes
from index.tuning import Point
from serve.evaluation.evaluate import FUSED, RERANKED, SERVED, Evaluation
from serve.recommend.ranking.explanations import Reasons
from serve.recommend.ranking.scorer import HeadMetrics
from serve.release.manifest import SpaceEntry

OURS, OTHER, ACCENT, PLAIN = "#014f86", "#61a5c2", "#e0a458", "#b8b8b8"
"""Told apart by who sees few colours too, and by their lightness in print."""
STYLE = {
    "figure.dpi": 100,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": f"cycler('color', ['{OURS}', '{ACCENT}', '{OTHER}', '#7a5195', '{PLAIN}'])",
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
}
"""How the notebooks draw: for `pyplot.rcParams.update`."""
SHELF = 1.7  # the height of a row of photos with its texts, in widths of a photo


def draw_items(shelves: Mapping[str, Sequence[tuple[Item | Image, str]]], source: ImageSource) -> None:
    """Draw a row of photos for each title, with some text under each, as a figure of pyplot's.

    Photos of items are read from `source`.
    """
    from matplotlib import pyplot as plt

    longest = max(len(shelf) for shelf in shelves.values())
    _, axis = plt.subplots(figsize=(1.4 * longest, 2.35 * len(shelves)))
    for row, (title, shelf) in enumerate(shelves.items()):
        top = row * SHELF
        axis.text(0, top, title, fontsize=10)
        for column, (of, said) in enumerate(shelf):
            x, y = column + 0.48, top + 0.6  # the middle of the photo
            text = "\n".join(textwrap.fill(line, 21) for line in said.split("\n"))
            axis.text(x, top + 1.12, text, fontsize=7, ha="center", va="top")
            photo = _first_photo(of, source) if isinstance(of, Item) else of
            if photo is None:
                axis.text(x, y, "no photo", fontsize=8, ha="center", va="center")
                continue
            across, down = (0.47 * side / max(photo.size) for side in photo.size)
            axis.imshow(photo, extent=(x - across, x + across, y + down, y - down))
    axis.set(xlim=(0, longest), ylim=(len(shelves) * SHELF, -0.15))
    axis.set_axis_off()


def _first_photo(item: Item, source: ImageSource) -> Image | None:
    """An item's first photo, None where there is none that can be read."""
    try:
        return decode_image(source.read(item.images[0]), source.limits, shrink_to=160)
    except (IndexError, BadInput):
        return None


def principal_plane(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Where n vectors [n, d] lie on their first two principal components, [n, 2], and the share of variance there."""
    centred = vectors - vectors.mean(axis=0)
    axes, held = principal_axes(centred)
    return centred @ axes[:, :2], float(held[1])


def draw_groups(axis: Any, points: NDArray[np.float32], groups: Sequence[str], most: int = 12) -> None:
    """Draw n points [n, 2] by their groups, the `most` largest named where they lie, into matplotlib axes.

    Colour and shape tell groups apart, and are the same wherever the same groups are drawn; all smaller ones are grey.
    """
    import matplotlib as mpl

    named = sorted(name for name, _ in Counter(groups).most_common(most))
    of = np.array([named.index(name) if name in named else -1 for name in groups])
    axis.scatter(*points[of < 0].T, s=8, color=PLAIN, alpha=0.6)
    middles = np.array([np.median(points[of == number], axis=0) for number in range(len(named))])
    apart, lowest = 0.045 * np.ptp(points[:, 1]), -np.inf
    for number in np.argsort(middles[:, 1]):
        colour = mpl.color_sequences["petroff10"][number % 10]
        axis.scatter(*points[of == number].T, s=14, color=colour, marker="os^D"[number % 4], alpha=0.7, linewidths=0)
        x, lowest = middles[number, 0], max(middles[number, 1], lowest + apart)  # no name on top of another
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": colour, "alpha": 0.8}
        axis.text(x, lowest, named[number], size=8, ha="center", va="center", bbox=box)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def training_curves(folder: Path) -> dict[str, list[float]]:
    """What TensorBoard shows of a training (see embed.training_loop): by name, the value after each epoch."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    read = EventAccumulator(str(folder)).Reload()
    return {name: [event.value for event in read.Scalars(name)] for name in read.Tags()["scalars"]}


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


def draw_reliability(axis: Any, heads: Mapping[str, HeadMetrics]) -> None:
    """Draw, of each head, the share that happened against the probability that was given, into matplotlib axes."""
    for name, head in heads.items():
        said, was, _ = zip(*head.reliability, strict=True)
        axis.plot(said, was, marker="o", markersize=3, label=f"{name} (ECE {head.ece:.3f})")
    axis.axline((1e-3, 1e-3), slope=1, color="#b8b8b8", linewidth=1)
    axis.set_xlabel("probability given")
    axis.set_ylabel("share that happened")
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def draw_reasons(axis: Any, reasons: Sequence[Reasons], names: Sequence[str], most: int = 4) -> None:
    """Draw what adds up to each of m named scores, the `most` largest parts told apart, as bars into matplotlib axes.

    `history` is what the shopper's own interactions add. What speaks against an item lies below zero.
    """
    rows = [{"history": sum(one.value for one in of.history), **of.parts} for of in reasons]
    parts = {
        name: np.array([of.get(name, 0.0) for of in rows]) for name in sorted({name for of in rows for name in of})
    }
    largest = sorted(parts, key=lambda name: -float(np.abs(parts[name]).sum()))
    shown = {name: parts[name] for name in largest[:most]}
    shown["the rest"] = np.sum([np.zeros(len(rows)), *(parts[name] for name in largest[most:])], axis=0)
    ends, places = np.zeros((2, len(rows))), np.arange(len(rows))  # how far the bars reach below and above zero
    for name, values in shown.items():
        side = (values > 0).astype(int)
        axis.barh(places, values, left=ends[side, places], label=name)
        ends[side, places] += values
    axis.set_yticks(places, names)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.invert_yaxis()
    axis.set_xlabel("what each part adds to the score")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def draw_systems(axis: Any, found: Evaluation) -> None:
    """Draw bars of NDCG@10 with their intervals, the baselines in another colour, into matplotlib axes."""
    systems = sorted(found.systems.items(), key=lambda each: each[1].means["ndcg10"])
    for place, (name, of) in enumerate(systems):
        mean, (low, high) = of.means["ndcg10"], of.intervals["ndcg10"]
        colour = OURS if name in (FUSED, RERANKED, SERVED) else PLAIN if name in found.baselines else OTHER
        axis.barh(place, mean, color=colour, height=0.7)
        axis.errorbar(mean, place, xerr=[[mean - low], [high - mean]], color="black", capsize=3, linewidth=1)
        axis.annotate(f"{mean:.4f}", (high, place), (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(systems)), [name for name, _ in systems])
    axis.set_xlabel(f"NDCG@10 of {next(iter(found.systems.values())).users:,} held-out shoppers, 95 % intervals")
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(x=0.12)


def draw_evaluation(found: Evaluation, file: Path) -> None:
    """Write bars of NDCG@10 with their intervals, the baselines in another colour, to a PNG or SVG file.

    Beside them, where a scorer was trained, how its probabilities hold.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = 1 + bool(found.heads)
    size = 4 + 4 * columns, 0.4 * len(found.systems) + 1.6
    figure, ((axis, *beside),) = plt.subplots(1, columns, figsize=size, squeeze=False)
    draw_systems(axis, found)
    for one in beside:
        draw_reliability(one, found.heads)
    figure.tight_layout()
    figure.savefig(file, dpi=150)
    plt.close(figure)
