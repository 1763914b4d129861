"""From a feed to a release, and what releases there are."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serve.cli.render import results as show
from serve.cli.terminal import (
    FeedFile,
    Force,
    Format,
    Images,
    Json,
    MappingFile,
    Store,
    app,
    bars,
    index_app,
    out,
    print_result,
)
from serve.core.errors import BadRequest
from serve.core.settings import load_settings


class Engine(StrEnum):
    """What an encode job runs on."""

    LOCAL = "local"
    RAY = "ray"


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
    from serve.jobs.build import ingest_feed

    settings = load_settings(store=store, mapping=mapping)
    with bars(json) as progress:
        report = ingest_feed(settings, feed, format_, force, progress)
    print_result(json, report, show.ingest_report)


@app.command()
def encode(
    store: Store = None,
    images: Images = None,
    engine: Annotated[
        Engine, typer.Option(help="local, or ray: the cluster of RAY_ADDRESS, or every processor and card here")
    ] = Engine.LOCAL,
    json: Json = False,
) -> None:
    """Encode what is new in the catalogue into the vector store."""
    from serve.jobs.build import encode_catalogue

    settings = load_settings(store=store, image_root=images)
    with bars(json) as progress:
        spaces = encode_catalogue(settings, progress, engine.value)
    print_result(json, [show.space_figures(space) for space in spaces], show.encoded)


@app.command()
def align(
    lora: Annotated[
        bool, typer.Option("--lora", help="fine-tune the CLIP model itself: for those with a card")
    ] = False,
    store: Store = None,
    images: Images = None,
    json: Json = False,
) -> None:
    """Learn anew from the catalogue how words and photos enter the image space; then build."""
    from serve.jobs.build import align_catalogue, fine_tune_catalogue

    settings = load_settings(store=store, image_root=images)
    if lora:
        with bars(json) as progress:
            tuned = fine_tune_catalogue(settings, progress)
        print_result(json, tuned, lambda _: show.fine_tuned(settings.image_encoder, tuned))
        return
    with bars(json) as progress:
        report = align_catalogue(settings, progress)
    print_result(json, report, lambda _: show.alignment(report.facts))
    if not json:
        out.print("the next vetrina build takes it into its release")


@app.command()
def duplicates(
    out_file: Annotated[Path, typer.Option("--out", help="the groups, one a line, as JSON")] = Path("duplicates.jsonl"),
    store: Store = None,
    images: Images = None,
    json: Json = False,
) -> None:
    """Find images that several items share, also scaled or compressed again, and write the groups down."""
    from dataclasses import asdict

    import orjson

    from serve.jobs.find_duplicates import find_duplicates

    settings = load_settings(store=store, image_root=images)
    with bars(json) as progress:
        report = find_duplicates(settings, progress)
    lines = [orjson.dumps([asdict(copy) for copy in group]) + b"\n" for group in report.groups]
    out_file.write_bytes(b"".join(lines))
    print_result(json, report, show.duplicates)
    if not json:
        out.print(f"written to {out_file}")


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
    from serve.jobs.build import build as run

    settings = load_settings(store=store, mapping=mapping, image_root=images)
    with bars(json) as progress:
        report = run(settings, feed, format_, force, progress)
    print_result(json, show.build_figures(report), lambda _: show.build_report(report))
    if report.refused:
        raise typer.Exit(1)


@app.command()
def publish(
    release: Annotated[
        str | None, typer.Argument(help="the release that is to answer", show_default="the newest")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="also where it is worse than the current one")] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Let a release answer unless it measures worse than the current one; exit code 1 where it does."""
    from serve.jobs.build import publish as run
    from serve.release.repository import release_names

    settings = load_settings(store=store)
    name = release or next(iter(release_names(settings.store)), "")
    with bars(json) as progress:
        checks, published = run(settings, name, force, progress)
    print_result(json, {"release": name, "published": published, "checks": checks}, show.published)
    if not published:
        raise typer.Exit(1)


@app.command()
def releases(store: Store = None, json: Json = False) -> None:
    """The releases on disk and which one answers."""
    from serve.release.repository import current_name, list_manifests

    settings = load_settings(store=store)
    current = current_name(settings.store)
    listed = [
        {"current": manifest.release == current, **manifest.model_dump(mode="json", exclude={"files"})}
        for manifest in list_manifests(settings.store)
    ]
    print_result(json, listed, show.releases)


@app.command()
def rollback(
    release: Annotated[
        str | None, typer.Argument(help="the release that is to answer", show_default="the one before the current")
    ] = None,
    store: Store = None,
) -> None:
    """Let an earlier release answer again; live changes stay. Servers follow within a second."""
    from serve.release.repository import make_current, open_release, release_before
    from serve.security import audit_log

    settings = load_settings(store=store)
    name = release or release_before(settings.store)
    open_release(settings.store, name)  # checked before anything moves
    make_current(settings.store, name)
    audit_log.note(settings.store, "rollback", audit_log.operator(), release=name)
    out.print(f"[bold green]release {name} answers now[/]", markup=True)


@index_app.command("curve")
def index_curve(
    space: Annotated[str | None, typer.Option(help="one space; without it, each")] = None,
    out_file: Annotated[Path, typer.Option("--out", help="the picture, PNG or SVG")] = Path("index-curve.png"),
    store: Store = None,
) -> None:
    """Draw what the tuning measured: recall against queries a second, and what was chosen."""
    from serve.cli.render.plots import draw_curves
    from serve.release.repository import open_current

    settings = load_settings(store=store)
    manifest = open_current(settings.store).manifest
    if space is not None and space not in manifest.indexes:
        raise BadRequest(f"there is no space {space!r}: this release has {', '.join(manifest.indexes)}", "space")
    spaces = {name: entry for name, entry in manifest.indexes.items() if space in (None, name)}
    for name, entry in spaces.items():
        out.print(f"{name}: {entry.note}")
    if draw_curves(spaces, out_file):
        out.print(f"drawn in {out_file}")
