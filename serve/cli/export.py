"""What other services take in as files: the catalogue, its vectors, its neighbours."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from serve.cli.terminal import Json, Store, bars, export_app, print_result
from serve.core.settings import load_settings

if TYPE_CHECKING:
    from serve.jobs.export_catalogue import ExportReport

Out = Annotated[Path, typer.Option("--out", help="Parquet file, written whole or not at all")]


@export_app.command("items")
def items(out_file: Out, store: Store = None, json: Json = False) -> None:
    """All columns of the catalogue as it is now, live changes applied."""
    from serve.jobs.export_catalogue import export_items

    with bars(json) as progress:
        report = export_items(load_settings(store=store), out_file, progress)
    print_result(json, report, _readable)


@export_app.command("vectors")
def vectors(
    out_file: Out,
    space: Annotated[str, typer.Option(help="image, text or tower")],
    store: Store = None,
    json: Json = False,
) -> None:
    """The vectors of all items in a space: item_id, space, label, vector."""
    from serve.jobs.export_catalogue import export_vectors

    with bars(json) as progress:
        report = export_vectors(load_settings(store=store), out_file, space, progress)
    print_result(json, report, _readable)


@export_app.command("neighbours")
def neighbours(
    out_file: Out,
    space: Annotated[str | None, typer.Option(help="by this space alone", show_default="all, fused")] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="neighbours of each item")] = 50,
    store: Store = None,
    json: Json = False,
) -> None:
    """The items most like each item, as `similar` finds them: item_id, neighbour_id, rank, score."""
    from serve.jobs.export_catalogue import export_neighbours

    with bars(json) as progress:
        report = export_neighbours(load_settings(store=store), out_file, space, k, progress)
    print_result(json, report, _readable)


def _readable(report: "ExportReport") -> Text:
    return Text(
        f"{report.rows:,} rows of {report.items:,} items from release {report.release} in {report.file} "
        f"({report.seconds:.1f} s)"
    )
