"""What all commands share: the apps, options, where they print, and bars."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


quarantine_app = typer.Typer(no_args_is_help=True, help="Who is kept but not learned from: robots, click floods.")
app.add_typer(quarantine_app, name="quarantine")


ab_app = typer.Typer(no_args_is_help=True, help="Two releases side by side, each for a share of the shoppers.")
app.add_typer(ab_app, name="ab")


keys_app = typer.Typer(no_args_is_help=True, help="Who may call the service.")
app.add_typer(keys_app, name="keys")


tune_app = typer.Typer(no_args_is_help=True, help="Look for better settings.")
app.add_typer(tune_app, name="tune")


export_app = typer.Typer(no_args_is_help=True, help="Write Parquet for other services.")
app.add_typer(export_app, name="export")


def print_result(json: bool, value: Any, readable: Callable[[Any], Any]) -> None:
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
