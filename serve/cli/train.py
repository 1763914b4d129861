"""Events, and what is trained on them."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer

from serve.cli.render import learning as show
from serve.cli.terminal import Json, Store, app, bars, out, print_result, train_app, tune_app
from serve.core.settings import load_settings


@app.command()
def events(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, TSV, JSONL or Parquet of events")],
    store: Store = None,
    mapping: Annotated[Path | None, typer.Option("--mapping", help="mapping file for the file's own names")] = None,
    json: Json = False,
) -> None:
    """Take a file of events into the store's log: clean, reject with reasons, report. Reading it again adds nothing."""
    from serve.jobs.import_events import import_events

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = import_events(settings, file, mapping, progress)
    print_result(json, report, show.events_report)


@train_app.command("towers")
def train_towers_command(store: Store = None, json: Json = False) -> None:
    """Train the two towers and the blend of all sources on the store's events; then build. Goes on after a kill."""
    from serve.jobs.train import train

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = train(settings, progress)
    print_result(json, report, show.training_report)
    if not json:
        out.print("the next vetrina build takes them into its release")


@train_app.command("scorer")
def train_scorer_command(store: Store = None, json: Json = False) -> None:
    """Train the scorer that puts recommendations in order; needs towers; then build. Goes on after a kill."""
    from serve.jobs.train import train_scorer

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = train_scorer(settings, progress)
    print_result(json, report, show.scorer_report)
    if not json:
        out.print("the next vetrina build takes it into its release")


@tune_app.command("towers")
def tune_towers_command(
    trials: Annotated[int, typer.Option(min=1, help="settings to try, after those that were tried before")] = 20,
    store: Store = None,
    json: Json = False,
) -> None:
    """Look for better settings of the towers; prints them for vetrina.toml. Stop and go on at any time."""
    from serve.jobs.train import tune

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = tune(settings, trials, progress)
    print_result(json, show.tuning_figures(report), show.tuning_report)


@app.command()
def evaluate(
    out_file: Annotated[Path, typer.Option("--out", help="the figures as JSON; the chart beside it as PNG")] = Path(
        "evaluation.json"
    ),
    ablate: Annotated[bool, typer.Option("--ablate", help="also without each group of the scorer's features")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """How good recommendations are on held-out time, stage by stage and beside plain baselines; all items ranked."""
    import tempfile

    from serve.cli.render.plots import draw_evaluation
    from serve.jobs.train import evaluate as run

    settings = load_settings(store=store)
    with bars(json) as progress, tempfile.TemporaryDirectory() as folder:
        found = run(settings, Path(folder), ablate, progress)
    figures = asdict(found)
    out_file.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    draw_evaluation(found, out_file.with_suffix(".png"))
    print_result(json, figures, lambda _: show.evaluation(found))
    if not json:
        out.print(f"written to {out_file}, drawn in {out_file.with_suffix('.png')}")
