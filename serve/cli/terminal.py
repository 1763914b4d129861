"""The command groups, options that several commands have, and output: results, next steps, errors and progress."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBars
from rich.text import Text
from typer.core import TyperGroup

from serve.core.progress import Progress
from serve.core.settings import Settings

TASKS = {
    "Start": ("demo", "serve", "doctor"),
    "Build": ("build", "ingest", "encode", "align", "duplicates", "index"),
    "Search and recommend": ("search", "similar", "related", "recommend", "candidates", "rules", "relations", "export"),
    "Learn": ("events", "train", "learn", "tune", "evaluate", "off-policy", "ab"),
    "Operate": ("releases", "publish", "rollback", "keys", "audit", "review", "quarantine", "erase", "compact"),
    "Campaigns": ("audience", "copy"),
}
"""The commands by task, in the order in which help lists them."""

PIPE_WIDTH = 110  # columns of output that does not go to a terminal

# Titles are data: "[sale]" in one is not markup, ":rose:" is not an emoji.
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


class TaskGroup(TyperGroup):
    """The commands of the application, listed by task."""

    def list_commands(self, ctx: Any) -> list[str]:
        order = [name for names in TASKS.values() for name in names]
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            panel = next((task for task, names in TASKS.items() if cmd_name in names), None)
            command.rich_help_panel = panel  # type: ignore[attr-defined]
        return command


app = typer.Typer(
    cls=TaskGroup,
    no_args_is_help=True,
    help="Vetrina: search, similar items and recommendations for shops.",
    pretty_exceptions_enable=False,
)


def _group(name: str, summary: str) -> typer.Typer:
    group = typer.Typer(no_args_is_help=True, help=summary)
    app.add_typer(group, name=name)
    return group


index_app = _group("index", "Inspect the indexes of a release.")
train_app = _group("train", "Train models on events.")
rules_app = _group("rules", "Check and try merchandising rules.")
quarantine_app = _group("quarantine", "Manage users excluded from training.")
ab_app = _group("ab", "Run an A/B test.")
keys_app = _group("keys", "Manage API keys.")
tune_app = _group("tune", "Search for better settings.")
export_app = _group("export", "Export Parquet files.")

Store = Annotated[Path | None, typer.Option("--store", help="Folder of the store.", show_default="store")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Continue where more than half of the items or photos would be lost."),
]
MappingFile = Annotated[
    Path | None,
    typer.Option("--mapping", help="Mapping file for the feed's column names.", show_default="that of the last build"),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Format of the feed: csv, jsonl, parquet, merchant or shopify.",
        show_default="recognised",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        exists=True,
        file_okay=False,
        help="Folder of local photos.",
        show_default="that of the last build, or the feed's folder",
    ),
]
User = Annotated[str | None, typer.Option(help="User to personalize for.")]
Explain = Annotated[bool, typer.Option("--explain", help="Print why each item is recommended.")]
K = Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Number of items.")]
Filter = Annotated[str | None, typer.Option("--filter", help='Filter as JSON, such as \'{"price": {"lte": 50}}\'.')]
Spaces = Annotated[
    list[str] | None, typer.Option("--space", help="Space to search; repeatable.", show_default="all spaces")
]
FeedFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, TSV, JSONL, Parquet or XML feed.")]


def _print_version(requested: bool) -> None:
    if requested:
        print(f"vetrina {version('vetrina')}")
        raise typer.Exit


@app.callback()
def _application(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Carry the options of the application itself."""


def print_result(json: bool, value: Any, render: Callable[[Any], RenderableType | str]) -> None:
    """Print a result: as JSON, or as `render` shows it."""
    if json:
        _print_json(value)
    else:
        out.print(render(value))


def print_text(text: RenderableType | str) -> None:
    """Print text for people."""
    out.print(text)


def print_notice(json: bool, notice: RenderableType) -> None:
    """Print what a command is about to do, on standard error; nothing with --json, where the result has it."""
    if not json:
        err.print(notice)


def print_next(json: bool, settings: Settings, *commands: str) -> None:
    """Print which commands to run next, for this store; nothing with --json."""
    if not json:
        default = Settings.model_fields["store"].default
        store = "" if settings.store == default else f" --store {settings.store}"
        out.print(Text(f"next: {', or '.join(f'vetrina {command}{store}' for command in commands)}", "dim"))


def print_error(json: bool, code: str, message: str, field: str = "") -> None:
    """Print an error: as JSON on standard output, or as a line on standard error."""
    if json:
        _print_json({"error": {"code": code, "message": message, "field": field}})
    else:
        err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=not err.is_terminal)


def print_interruption(json: bool) -> None:
    """Print that a command was interrupted and how to continue."""
    message = "interrupted: run the same command again to continue"
    if json:
        print_error(json, "interrupted", message)
    else:
        err.print(message)


def _print_json(value: Any) -> None:
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    sys.stdout.buffer.write(orjson.dumps(value, default=_as_json, option=options))
    sys.stdout.flush()


def _as_json(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else vars(value)


class _Rate(TextColumn):
    """Items or megabytes per second, or items per minute where that is slow; empty before the first."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed, unit = task.finished_speed or task.speed or 0, task.fields["unit"]
        if unit == "bytes":
            rate = f"{speed / 1e6:.1f} MB/s" if speed >= 50_000 else ""
        elif speed >= 1:
            rate = f"{speed:.0f} {unit}/s"
        else:
            rate = f"{60 * speed:.0f} {unit}/min" if 60 * speed >= 1 else ""
        return Text(rate, style="dim")


class _Count(MofNCompleteColumn):
    def __init__(self) -> None:
        super().__init__()
        self._bytes = DownloadColumn()

    def render(self, task: Task) -> Text:
        return self._bytes.render(task) if task.fields["unit"] == "bytes" else super().render(task)


@contextmanager
def bars(quiet: bool) -> Iterator[Progress | None]:
    """Show a progress bar for each stage; yields None where `quiet` or where the output is not a terminal."""
    if quiet or not sys.stderr.isatty():
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
    with ProgressBars(*columns, console=err) as progress_bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: float, total: float, unit: str) -> None:
            if stage not in tasks:
                tasks[stage] = progress_bars.add_task(stage, total=total, unit=unit)
            progress_bars.update(tasks[stage], completed=done, total=total)

        yield report
