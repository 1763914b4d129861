"""Commands that export Parquet files for other services: items, vectors, neighbours."""

from pathlib import Path
from typing import Annotated

import typer

from serve.cli.render import results as render
from serve.cli.terminal import Json, Store, bars, export_app, print_result
from serve.core.settings import load_settings

Out = Annotated[Path, typer.Option("--out", help="Parquet file to write, in one atomic step.")]


@export_app.command("items")
def items(out_file: Out, store: Store = None, json: Json = False) -> None:
    """Export the catalogue.

    Writes all columns of all items, with live changes applied.
    """
    from serve.jobs.export_catalogue import export_items

    with bars(json) as progress:
        report = export_items(load_settings(store=store), out_file, progress)
    print_result(json, report, render.export_report)


@export_app.command("vectors")
def vectors(
    out_file: Out,
    space: Annotated[str, typer.Option(help="Space to export: image, text or tower.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Export the vectors of a space.

    Writes the columns item_id, space, label and vector.
    """
    from serve.jobs.export_catalogue import export_vectors

    with bars(json) as progress:
        report = export_vectors(load_settings(store=store), out_file, space, progress)
    print_result(json, report, render.export_report)


@export_app.command("neighbours")
def neighbours(
    out_file: Out,
    space: Annotated[str | None, typer.Option(help="Space to search.", show_default="all spaces, fused")] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=1000, help="Neighbours per item.")] = 50,
    store: Store = None,
    json: Json = False,
) -> None:
    """Export the neighbours of each item.

    They are those that `vetrina similar` finds. Writes the columns item_id, neighbour_id, rank and score.
    """
    from serve.jobs.export_catalogue import export_neighbours

    with bars(json) as progress:
        report = export_neighbours(load_settings(store=store), out_file, space, k, progress)
    print_result(json, report, render.export_report)
