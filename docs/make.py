"""Renews the generated pages and pictures of the documentation.

python docs/make.py settings               # docs/settings.md
python docs/make.py pictures               # architecture, floors and quality, from the code and tests/bench/results
python docs/make.py console --store STORE  # a screenshot of the console, in Chromium
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import httpx
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
INK, SOFT, ACCENT, LINE = "#1f2933", "#eef2f6", "#2f6f9f", "#9aa5b1"
PUBLISHED = {"beauty": {"TIGER": 0.038, "HSTU": 0.044, "SASRec+SS": 0.053}, "toys": {"TIGER": 0.043}}
"""NDCG@10 with the last item held out and all items ranked, as published for each model."""

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def settings() -> None:
    """Write the settings reference."""
    (ROOT / "docs" / "settings.md").write_text(settings_page())


def settings_page() -> str:
    """Return the settings reference as Markdown: one table of top-level settings, one for each group."""
    from embed.encoders import EncoderOptions
    from serve.core.settings import Settings

    lines = [
        "# Settings",
        "",
        "Settings come from `vetrina.toml` (or the file that `VETRINA_CONFIG` names), then from `VETRINA_*` variables,",
        "then from flags. An unknown name is an error. A group is a table in TOML, `[timeouts]`, and two underscores",
        "in a variable: `VETRINA_TIMEOUTS__BODY=10`. This page is generated: `python docs/make.py settings`.",
        "",
    ]
    groups = []
    rows = []
    for name, field in Settings.model_fields.items():
        if name == "encoders":  # a table for each encoder, by its name
            rows.append((f"`{name}`", "table of tables", "", field.description or ""))
            groups.append(('encoders."NAME"', EncoderOptions))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            groups.append((name, field.annotation))
        else:
            rows.append(_row(name, field))
    lines += [*_table(rows), ""]
    for name, model in groups:
        about = (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
        lines += [f"## {name}", "", re.sub(r"\s+", " ", about), ""]
        lines += [*_table([_row(f"{name}.{each}", field) for each, field in model.model_fields.items()]), ""]
    return "\n".join(lines)


def _table(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    yield "| setting | type | default | meaning |"
    yield "|---|---|---|---|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _row(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    default: Any = None if field.default is PydanticUndefined else field.default
    shown = "" if default is None else f"`{json.dumps(default, default=str)}`"
    return f"`{name}`", _type_name(field.annotation), shown, (field.description or "").replace("|", r"\|")


def _type_name(annotation: Any) -> str:
    kind, inside = get_origin(annotation), get_args(annotation)
    if kind is Annotated:
        return _type_name(inside[0])
    if kind is Literal:
        return " or ".join(f'`"{value}"`' for value in inside)
    if kind is list:
        return f"list of {_type_name(inside[0])}"
    if kind is dict:
        return f"table of {_type_name(inside[1])}"
    if inside:  # of a union with None
        return _type_name(inside[0])
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}[
        annotation.__name__
    ]


@app.command()
def pictures() -> None:
    """Draw the architecture, the floors of serve/ and the quality plot."""
    _architecture(PICTURES / "architecture.png")
    _floors(PICTURES / "floors.png")
    _quality(PICTURES / "quality.png")


def _axes(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.add_subplot()
    axis.set(xlim=(0, 100), ylim=(0, 100))
    axis.axis("off")
    return figure, axis


def _box(axis: Any, x: float, y: float, width: float, height: float, text: str, color: str = SOFT) -> None:
    from matplotlib.patches import FancyBboxPatch

    axis.add_patch(FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=1.2", fc=color, ec=LINE, lw=1))
    ink = "white" if color == ACCENT else INK
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, color=ink, linespacing=1.5)


def _arrow(axis: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0})


def _elbow(axis: Any, *points: tuple[float, float]) -> None:
    axis.plot(*zip(*points[:-1], strict=True), color=INK, lw=1.2, solid_capstyle="butt")
    _arrow(axis, points[-2], points[-1])


def _architecture(path: Path) -> None:
    figure, axis = _axes(10, 4.6)
    axis.text(1, 96, "Offline jobs", fontsize=10, weight="bold", color=INK)
    axis.text(1, 46, "Service", fontsize=10, weight="bold", color=INK)
    steps = [
        "product feed\nCSV, JSONL, XML …",
        "catalogue\n+ rejected rows",
        "vectors\nCLIP, text, towers",
        "indexes\ntuned by measuring",
    ]
    for number, text in enumerate(steps):
        _box(axis, 1 + 20.5 * number, 70, 16, 20, text)
        _arrow(axis, (17 + 20.5 * number, 80), (21.5 + 20.5 * number, 80))
    _box(axis, 83, 70, 16, 20, "release\nimmutable, measured", ACCENT)
    _box(axis, 42, 52, 37, 11, "training: two-tower model, score model, scorer")
    _arrow(axis, (50, 63), (50, 70))
    _arrow(axis, (79, 60), (86, 70))
    _box(axis, 83, 22, 16, 20, "snapshot\nrelease + live changes", ACCENT)
    _arrow(axis, (91, 70), (91, 42))
    flow = [
        "request\nwords, photo, user",
        "retrievers\n+ filters",
        "score model,\nscorer, rules",
        "response\nitems + reasons",
    ]
    for number, text in enumerate(flow):
        _box(axis, 1 + 20.5 * number, 22, 16, 20, text)
        if number < len(flow) - 1:
            _arrow(axis, (17 + 20.5 * number, 32), (21.5 + 20.5 * number, 32))
    _elbow(axis, (87, 42), (87, 47), (29.5, 47), (29.5, 42))
    _box(axis, 21.5, 1, 57, 10, "impressions and events: used in the next response, in online learning, in training")
    _arrow(axis, (70, 22), (70, 11))
    _elbow(axis, (21.5, 6), (9, 6), (9, 22))
    _elbow(axis, (78.5, 6), (81, 6), (81, 57), (79, 57))
    figure.savefig(path, dpi=130)


def _floors(path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from test_rooms import FLOORS

    levels: dict[int, list[str]] = {}
    for name, level in FLOORS.items():
        levels.setdefault(level, []).append(name)
    figure, axis = _axes(9, 4.6)
    height = 96 / len(levels)
    for level, names in levels.items():
        bottom = 2 + (level - 1) * height
        axis.text(1, bottom + height * 0.4, f"{level}", fontsize=10, weight="bold", color=INK, va="center")
        width = 93 / len(names)
        for number, name in enumerate(names):
            _box(axis, 5 + number * width, bottom, width - 1.5, height * 0.8, f"{name}/" if name != "client" else name)
    figure.savefig(path, dpi=130)


def _quality(path: Path) -> None:
    from matplotlib.figure import Figure

    found = json.loads((ROOT / "tests" / "bench" / "results" / "sequences.json").read_text())
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axis, (shop, published) in zip(figure.subplots(1, 2), PUBLISHED.items(), strict=True):
        ours = {
            "popularity": found[f"{shop}_popularity_ndcg10"],
            "co-visitation": found[f"{shop}_covisitation_ndcg10"],
            "two-tower model": found[f"{shop}_tower_ndcg10"],
            "retrievers fused": found[f"{shop}_fused_ndcg10"],
            "Vetrina, reranked": found[f"{shop}_reranked_ndcg10"],
        }
        names = [*(f"{name} (published)" for name in published), *ours]
        values = [*published.values(), *ours.values()]
        colors = [LINE] * len(published) + [ACCENT] * len(ours)
        bars = axis.barh(names, values, color=colors)
        axis.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
        axis.set_title(f"Amazon {shop.capitalize()}", fontsize=10, loc="left")
        axis.set_xlabel("NDCG@10, last item held out, all items ranked", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_xlim(0, max(values) * 1.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


@app.command()
def console(
    store: Annotated[Path, typer.Option(help="a store of the demo shop")] = ROOT / "demo-shop" / "store",
) -> None:
    """Take a screenshot of the console."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", "from serve.cli import main; main()", "serve", "--store", str(store)]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                if httpx.get(f"{address}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(f"{address}/")
            page.get_by_role("combobox", name="Search").fill("warm hoodie")
            page.keyboard.press("Enter")
            page.locator("main img").nth(5).wait_for(timeout=60_000)
            page.wait_for_timeout(3000)  # for the images to arrive
            page.screenshot(path=PICTURES / "console.png")
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    app()
