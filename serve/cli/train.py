"""Commands that learn from events: events, train, learn, tune, evaluate."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Group

from serve.cli.render import learning as render
from serve.cli.terminal import Json, Store, app, bars, print_error, print_next, print_result, train_app, tune_app
from serve.core.errors import EXPECTED, error_response
from serve.core.settings import load_settings


@app.command()
def events(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV, TSV, JSONL or Parquet file of events.")
    ],
    store: Store = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="Mapping file for the file's column names.", show_default="none")
    ] = None,
    json: Json = False,
) -> None:
    """Import a file of events.

    Events that are in the store already are not stored again.
    """
    from serve.jobs.import_events import import_events

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = import_events(settings, file, mapping, progress)
    print_result(json, report, render.events_report)
    print_next(json, settings, "train towers")


@train_app.command("towers")
def train_towers(store: Store = None, json: Json = False) -> None:
    """Train the two-tower model.

    Also learns the weights of all retrievers. The next build uses both. An interrupted training continues.
    """
    from serve.jobs.train import train

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = train(settings, progress)
    print_result(json, report, render.training_report)
    print_next(json, settings, "train scorer", "build")


@train_app.command("scorer")
def train_scorer(store: Store = None, json: Json = False) -> None:
    """Train the scorer.

    It ranks recommendations, and needs trained towers. The next build uses it. An interrupted training continues.
    """
    from serve.jobs.train import train_scorer as run

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = run(settings, progress)
    print_result(json, report, render.scorer_report)
    print_next(json, settings, "build")


@app.command()
def learn(
    every: Annotated[
        float | None, typer.Option(min=1, help="Repeat every so many minutes.", show_default="run once")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Continue training the scorer.

    Learns from new events, and publishes a release with the new scorer unless it measures worse. An interrupted
    training continues.
    """
    from serve.jobs.train import learn as run

    settings = load_settings(store=store)

    def learn_once() -> None:
        with bars(json) as progress:
            report, built = run(settings, progress)
        release = None if built is None else built.manifest.release
        figures = {**vars(report), "release": release, "published": built is not None and built.published}
        print_result(json, figures, render.learn_report)

    if every is None:
        learn_once()
        return
    while True:
        try:
            learn_once()
        except EXPECTED as error:  # such as another job at work: the next time may succeed
            response = error_response(error)
            print_error(json, response.code, response.message, response.field)
        time.sleep(60 * every)


@tune_app.command("towers")
def tune_towers(
    trials: Annotated[int, typer.Option(min=1, help="Number of further settings to try.")] = 20,
    store: Store = None,
    json: Json = False,
) -> None:
    """Search for better tower settings.

    Prints the best ones for vetrina.toml. An interrupted search continues with the trials that are done.
    """
    from serve.jobs.train import tune

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = tune(settings, trials, progress)
    print_result(json, render.tuning_figures(report), render.tuning_report)
    print_next(json, settings, "train towers")


@app.command()
def evaluate(
    out_file: Annotated[
        Path, typer.Option("--out", help="JSON file to write; a chart goes into a PNG file beside it.")
    ] = Path("evaluation.json"),
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also measure the scorer without each group of features.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Measure recommendations on held-out events.

    Each stage of the pipeline and several baselines rank all items for the last tenth of the events.
    """
    import tempfile

    from serve.cli.render.plots import draw_evaluation
    from serve.jobs.train import evaluate as run

    settings = load_settings(store=store)
    with bars(json) as progress, tempfile.TemporaryDirectory() as folder:
        measured = run(settings, Path(folder), ablate, progress)
    figures = asdict(measured)
    figures["heads"] = {name: head.model_dump() for name, head in measured.heads.items()}
    out_file.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    chart = out_file.with_suffix(".png")
    draw_evaluation(measured, chart)
    print_result(
        json, figures, lambda _: Group(render.evaluation(measured), f"written to {out_file}, drawn in {chart}")
    )
