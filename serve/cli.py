"""The command line: each command asks the same functions as the service, and prints what a person can read."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from serve import show
from serve.errors import EXPECTED, BadRequest, complaint
from serve.settings import Settings, load_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Vetrina: similar items and search for shops.")
# Piped output has no width of its own; 110 holds every table whole.
# Titles are data: "[sale]" in one is no markup, ":rose:" no emoji.
out = Console(width=None if sys.stdout.isatty() else 110, markup=False, emoji=False)
err = Console(stderr=True)

Store = Annotated[Path | None, typer.Option("--store", help="the folder that holds everything", show_default="store")]
Json = Annotated[bool, typer.Option("--json", help="print JSON for programs")]
Force = Annotated[bool, typer.Option("--force", help="also where the catalogue would be more than halved")]
MappingFile = Annotated[Path | None, typer.Option("--mapping", help="mapping file for the feed's own column names")]
Format = Annotated[
    str | None, typer.Option("--format", help="csv, jsonl, parquet, merchant or shopify; else recognised")
]
Images = Annotated[Path | None, typer.Option("--images", help="folder of local images", show_default="the feed's")]
User = Annotated[str | None, typer.Option(help="whose taste counts too")]
Explain = Annotated[bool, typer.Option("--explain", help="say why each item is there")]
K = Annotated[int, typer.Option("-k", min=1, max=1000, help="how many items")]
Where = Annotated[str | None, typer.Option("--filter", help='JSON, such as \'{"price": {"lte": 50}}\'')]
Spaces = Annotated[list[str] | None, typer.Option("--space", help="only this space; repeat it for several")]
FeedFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, TSV, JSONL, Parquet or XML feed")]


index_app = typer.Typer(no_args_is_help=True, help="What the indexes of a release are and how they were chosen.")
app.add_typer(index_app, name="index")


train_app = typer.Typer(no_args_is_help=True, help="Learn from the store's events.")
app.add_typer(train_app, name="train")


rules_app = typer.Typer(no_args_is_help=True, help="What the shop decides itself about recommendations.")
app.add_typer(rules_app, name="rules")


tune_app = typer.Typer(no_args_is_help=True, help="Look for better settings.")
app.add_typer(tune_app, name="tune")


def main() -> None:
    """The `vetrina` command: expected errors become one clear line and exit code 2 or 1."""
    try:
        app()
    except EXPECTED as error:
        found = complaint(error)
        err.print(Text.assemble(("error: ", "bold red"), found.message))
        # 2: something to do differently; 1: something is damaged.
        sys.exit(2 if found.status < 500 or found.code == "missing" else 1)
    except OSError as error:  # a store that may not be written, a disk that is full
        err.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(1)


@app.command("ingest")
def ingest_command(
    feed: FeedFile,
    store: Store = None,
    mapping: MappingFile = None,
    format_: Format = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Read a feed into the store's catalogue: clean, reject with reasons, report."""
    from serve.pipeline import ingest_feed

    settings = load_settings(store=store, mapping=mapping)
    with bars(json) as progress:
        report = ingest_feed(settings, feed, format_, force, progress)
    _print(json, report, show.ingest_report)


@app.command()
def encode(store: Store = None, images: Images = None, json: Json = False) -> None:
    """Encode what is new in the catalogue into the vector store."""
    from serve.pipeline import encode_catalogue

    settings = load_settings(store=store, image_root=images)
    with bars(json) as progress:
        spaces = encode_catalogue(settings, progress)
    _print(json, [show.space_figures(space) for space in spaces], show.encoded)


@app.command()
def build(
    feed: Annotated[
        Path | None, typer.Argument(exists=True, dir_okay=False, help="without it, the store's catalogue")
    ] = None,
    store: Store = None,
    mapping: MappingFile = None,
    format_: Format = None,
    images: Images = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Feed to release in one go: ingest, encode, index, publish. Redoes only what changed."""
    from serve.pipeline import build as run

    settings = load_settings(store=store, mapping=mapping, image_root=images)
    with bars(json) as progress:
        report = run(settings, feed, format_, force, progress)
    _print(json, show.build_figures(report), lambda _: show.build_report(report))


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="words to search for")] = None,
    image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="a photo to search for")] = None,
    like: Annotated[list[str] | None, typer.Option(help="an item to look like; repeat it for several")] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="an item not to look like")] = None,
    filter_: Where = None,
    space: Spaces = None,
    user: User = None,
    explain: Explain = False,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """Search by words, a photo, items to look like, or all of them together."""
    from serve.retrieve.engine import Query

    photo = image.read_bytes() if image else None
    query = Query(
        k=k,
        text=text,
        image=photo,
        like=like or (),
        unlike=unlike or (),
        spaces=space or (),
        filter=_read_filter(filter_),
    )
    settings = load_settings(store=store)
    _print(json, _ask(settings, lambda engine: engine.search(query, _taste(settings, user, explain))), show.answer)


@app.command()
def similar(
    item_ids: Annotated[list[str], typer.Argument(help="one item id or several")],
    filter_: Where = None,
    space: Spaces = None,
    user: User = None,
    explain: Explain = False,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """Items like the given ones."""
    wanted, settings = _read_filter(filter_), load_settings(store=store)
    answer = _ask(
        settings,
        lambda engine: engine.similar(item_ids, k, space or (), wanted, taste=_taste(settings, user, explain)),
    )
    _print(json, answer, show.answer)


@app.command()
def serve(
    store: Store = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(show_default="8000")] = None,
    workers: Annotated[int | None, typer.Option(help="processes that answer", show_default="1")] = None,
) -> None:
    """Start the HTTP service; it follows releases and live changes while it runs. The OpenAPI page is at /docs."""
    import uvicorn
    from uvicorn.config import LOGGING_CONFIG

    from serve.http.app import SERVED

    settings = load_settings(store=store, host=host, port=port, workers=workers)
    os.environ[SERVED] = settings.model_dump_json()
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # else each thread of a worker keeps a heap of its own
    loggers = LOGGING_CONFIG["loggers"] | {"vetrina": {"handlers": ["default"], "level": "INFO", "propagate": False}}
    # Workers are spawned, not forked, and map the same files: indexes lie in memory once, whatever their number.
    uvicorn.run(
        "serve.http.app:served_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        timeout_worker_healthcheck=60,
        log_level="info",
        log_config={**LOGGING_CONFIG, "loggers": loggers},
        access_log=False,
    )


@app.command()
def events(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, TSV, JSONL or Parquet of events")],
    store: Store = None,
    mapping: Annotated[Path | None, typer.Option("--mapping", help="mapping file for the file's own names")] = None,
    json: Json = False,
) -> None:
    """Take a file of events into the store's log: clean, reject with reasons, report. Reading it again adds nothing."""
    from serve.learn.import_events import import_events

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = import_events(settings, file, mapping, progress)
    _print(json, report, show.events_report)


@train_app.command("towers")
def train_towers_command(store: Store = None, json: Json = False) -> None:
    """Train the two towers and the blend of all sources on the store's events; then build. Goes on after a kill."""
    from serve.learning import train

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = train(settings, progress)
    _print(json, report, show.training_report)
    if not json:
        out.print("the next vetrina build takes them into its release")


@train_app.command("scorer")
def train_scorer_command(store: Store = None, json: Json = False) -> None:
    """Train the scorer that puts recommendations in order; needs towers; then build. Goes on after a kill."""
    from serve.learning import train_scorer

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = train_scorer(settings, progress)
    _print(json, report, show.scorer_report)
    if not json:
        out.print("the next vetrina build takes it into its release")


@tune_app.command("towers")
def tune_towers_command(
    trials: Annotated[int, typer.Option(min=1, help="settings to try, after those that were tried before")] = 20,
    store: Store = None,
    json: Json = False,
) -> None:
    """Look for better settings of the towers; prints them for vetrina.toml. Stop and go on at any time."""
    from serve.learning import tune

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = tune(settings, trials, progress)
    _print(json, show.tuning_figures(report), show.tuning_report)


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

    from serve.learning import evaluate as run
    from serve.plot import draw_evaluation

    settings = load_settings(store=store)
    with bars(json) as progress, tempfile.TemporaryDirectory() as folder:
        found = run(settings, Path(folder), ablate, progress)
    figures = asdict(found)
    out_file.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    draw_evaluation(found, out_file.with_suffix(".png"))
    _print(json, figures, lambda _: show.evaluation(found))
    if not json:
        out.print(f"written to {out_file}, drawn in {out_file.with_suffix('.png')}")


@app.command()
def recommend(
    user: Annotated[str | None, typer.Argument(help="whose events count; without one, --item")] = None,
    item: Annotated[list[str] | None, typer.Option(help="an item clicked just now; repeat it for several")] = None,
    filter_: Where = None,
    explain: Explain = False,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """What a shopper will want next, by what was done so far."""
    from serve.learn.event_store import open_event_store
    from serve.learn.known import known_of

    settings = load_settings(store=store)
    wanted = _read_filter(filter_)
    known = known_of(
        open_event_store(settings), settings, user, [{"item_id": of, "type": "click"} for of in item or ()]
    )
    answer = _ask(settings, lambda engine: engine.recommend(known.events, k, known.left_out, wanted, explain))
    _print(json, answer, show.answer)


@rules_app.command("check")
def rules_check(
    file: Annotated[Path | None, typer.Argument(help="without it, the rules of the store")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Whether a file of rules is right, and which of them hold now."""
    from time import time

    from serve.rank.relations import FILE, read_relations
    from serve.rank.rules import read_rules, rules_file

    settings = load_settings(store=store)
    path = file or rules_file(settings)
    rules = read_rules(path)
    read_relations(path.parent / FILE)
    listed = [{"name": rule.name, "do": rule.do, "holds": rule.holds(time())} for rule in rules]
    _print(json, listed, show.rules)


@rules_app.command("try")
def rules_try(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="the rules to try; nothing is changed")],
    user: Annotated[str, typer.Argument(help="the shopper to try them on")],
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """What a file of rules would change in a shopper's recommendations."""
    from serve.learn.event_store import open_event_store
    from serve.learn.known import known_of
    from serve.rank.rules import read_rules

    settings = load_settings(store=store)
    read_rules(file)
    known = known_of(open_event_store(settings), settings, user)
    with_rules, without = (settings.model_copy(update={"rules": rules}) for rules in (file, Path(os.devnull)))
    answers = {
        name: _ask(of, lambda engine: engine.recommend(known.events, k, known.left_out))
        for name, of in (("without", without), ("with", with_rules))
    }
    _print(json, answers, show.rules_tried)


@app.command()
def candidates(
    out_file: Annotated[Path, typer.Option("--out", help="Parquet file: user_id, item_id, place, score, by source")],
    users: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="text file, one user a line; without it, all")
    ] = None,
    filter_: Where = None,
    k: Annotated[int, typer.Option("-k", min=1, max=5000, help="candidates of each user")] = 100,
    store: Store = None,
    json: Json = False,
) -> None:
    """Candidates of many users at once, in a file for other services."""
    from serve.bulk import write_candidates

    settings = load_settings(store=store)
    wanted = _read_filter(filter_)
    with bars(json) as progress:
        report = write_candidates(settings, out_file, users, k, wanted, progress)
    _print(json, report, show.candidates_report)


@app.command()
def releases(store: Store = None, json: Json = False) -> None:
    """The releases on disk and which one answers."""
    from serve.release import current_name, list_manifests

    settings = load_settings(store=store)
    current = current_name(settings.store)
    listed = [
        {"current": manifest.release == current, **manifest.model_dump(mode="json", exclude={"files"})}
        for manifest in list_manifests(settings.store)
    ]
    _print(json, listed, show.releases)


@app.command()
def rollback(
    release: Annotated[
        str | None, typer.Argument(help="the release that is to answer", show_default="the one before the current")
    ] = None,
    store: Store = None,
) -> None:
    """Let an earlier release answer again; live changes stay. Servers follow within a second."""
    from serve.release import make_current, open_release, release_before

    settings = load_settings(store=store)
    name = release or release_before(settings.store)
    open_release(settings.store, name)  # checked before anything moves
    make_current(settings.store, name)
    out.print(Text.assemble((f"release {name} answers now", "bold green")))


@index_app.command("curve")
def index_curve(
    space: Annotated[str | None, typer.Option(help="one space; without it, each")] = None,
    out_file: Annotated[Path, typer.Option("--out", help="the picture, PNG or SVG")] = Path("index-curve.png"),
    store: Store = None,
) -> None:
    """Draw what the tuning measured: recall against queries a second, and what was chosen."""
    from serve.plot import draw_curves
    from serve.release import open_current

    settings = load_settings(store=store)
    manifest = open_current(settings.store).manifest
    if space is not None and space not in manifest.indexes:
        raise BadRequest(f"there is no space {space!r}: this release has {', '.join(manifest.indexes)}", "space")
    spaces = {name: entry for name, entry in manifest.indexes.items() if space in (None, name)}
    for name, entry in spaces.items():
        out.print(f"{name}: {entry.note}")
    if draw_curves(spaces, out_file):
        out.print(f"drawn in {out_file}")


@app.command()
def doctor(store: Store = None, json: Json = False) -> None:
    """What this machine can do, and what is wrong with a store; exit code 1 if anything is."""
    from serve.doctor import examine

    findings = examine(load_settings(store=store))
    _print(json, findings, show.findings)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="where the demo shop goes")] = Path("demo-shop"),
) -> None:
    """Draw the demo shop, build it, and show what it answers."""
    from serve.demo.tour import tour

    with bars(quiet=False) as progress:
        answers = tour(folder, progress)
    out.print(answers)


def _ask(settings: Settings, question: Callable[[Any], Any]) -> dict[str, Any]:
    from serve.answer import ask
    from serve.live import open_engine

    return ask(open_engine(settings), question)


def _taste(settings: Settings, user: str | None, explain: bool) -> Any:
    """For whom a search is; None for nobody in particular."""
    from serve.learn.event_store import open_event_store
    from serve.learn.known import known_of
    from serve.retrieve.engine import Taste

    if user is None:
        return None
    return Taste(known_of(open_event_store(settings), settings, user).events, settings.personal, explain)


def _read_filter(text: str | None) -> dict[str, Any]:
    try:
        found = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"filter is not JSON: {error}", "filter") from error
    if not isinstance(found, dict):
        raise BadRequest(f"filter is {text}: give an object of conditions", "filter")
    return found


def _print(json: bool, value: Any, readable: Callable[[Any], Any]) -> None:
    if json:
        sys.stdout.buffer.write(orjson.dumps(value, default=_plain, option=orjson.OPT_APPEND_NEWLINE))
    else:
        out.print(readable(value))


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else vars(value)


class _Rate(TextColumn):
    """Items or megabytes a second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0
        unit = task.fields["unit"]
        return Text(f"{speed / 1e6:.1f} MB/s" if unit == "bytes" else f"{speed:.0f} {unit}/s", style="dim")


class _Count(MofNCompleteColumn):
    def __init__(self) -> None:
        super().__init__()
        self._bytes = DownloadColumn()

    def render(self, task: Task) -> Text:
        return self._bytes.render(task) if task.fields["unit"] == "bytes" else super().render(task)


@contextmanager
def bars(quiet: bool) -> Iterator[Callable[[str, float, float, str], None] | None]:
    """A bar for each stage with count, rate and time left; nothing where a program reads."""
    if quiet:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<14}"),
        BarColumn(),
        _Count(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: float, total: float, unit: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, unit=unit)
            bars.update(tasks[stage], completed=done, total=total)

        yield tell
