"""Commands that make and manage releases: build, ingest, encode, align, duplicates, publish, releases, rollback."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from serve.cli.render import catalogue as render
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
    print_next,
    print_notice,
    print_result,
)
from serve.core.errors import BadRequest
from serve.core.settings import load_settings


class EncodeEngine(StrEnum):
    """Where an encode job runs."""

    LOCAL = "local"
    RAY = "ray"


@app.command()
def build(
    feed: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="Feed of items.", show_default="the catalogue in the store"),
    ] = None,
    store: Store = None,
    mapping: MappingFile = None,
    format_: Format = None,
    images: Images = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Publish even where more than half of the items or photos would be lost, or where it measures worse.",
        ),
    ] = False,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only print which spaces would be encoded anew, and what that costs."),
    ] = False,
    json: Json = False,
) -> None:
    """Build and publish a release.

    Ingests the feed, encodes items, builds indexes and publishes. Repeats only the steps whose input changed.
    """
    from serve.jobs.build import build as run
    from serve.jobs.build import plan_build

    settings = load_settings(store=store, mapping=mapping, image_root=images)
    if plan:
        if feed is not None:
            raise BadRequest(
                f"a plan is for the catalogue in the store: run vetrina ingest {feed} first, then build --plan", "feed"
            )
        print_result(json, plan_build(settings), render.encoding_plan)
        return
    with bars(json) as progress:
        report = run(
            settings, feed, format_, force, progress, lambda plan: print_notice(json, render.encoding_plan(plan))
        )
    print_result(json, render.build_figures(report, settings), lambda _: render.build_report(report, settings))
    if report.refused:
        raise typer.Exit(1)
    learn = [] if report.manifest.behaviour.events else ["events FILE"]
    print_next(json, settings, "search TEXT", *learn, "serve")


@app.command()
def ingest(
    feed: FeedFile,
    store: Store = None,
    mapping: MappingFile = None,
    format_: Format = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Read a feed into the catalogue.

    Cleans its records, and rejects invalid ones with a reason.
    """
    from serve.jobs.build import ingest_feed

    settings = load_settings(store=store, mapping=mapping)
    with bars(json) as progress:
        report = ingest_feed(settings, feed, format_, force, progress)
    print_result(json, report, render.ingest_report)
    print_next(json, settings, "encode", "build")


@app.command()
def encode(
    store: Store = None,
    images: Images = None,
    engine: Annotated[
        EncodeEngine,
        typer.Option(
            help="Where to run: here, or on the Ray cluster of RAY_ADDRESS (default: all CPUs and GPUs here)."
        ),
    ] = EncodeEngine.LOCAL,
    json: Json = False,
) -> None:
    """Encode new texts and photos."""
    from serve.jobs.build import encode_catalogue

    settings = load_settings(store=store, image_root=images)
    with bars(json) as progress:
        spaces = encode_catalogue(settings, progress, engine.value)
    print_result(json, [render.space_figures(space, settings) for space in spaces], render.encoding)
    print_next(json, settings, "build")


@app.command()
def align(
    lora: Annotated[
        bool, typer.Option("--lora", help="Fine-tune the CLIP image encoder instead (LoRA); needs a GPU.")
    ] = False,
    store: Store = None,
    images: Images = None,
    json: Json = False,
) -> None:
    """Learn how queries match photos.

    Learns from the catalogue's photos and texts how texts and photos enter the image space. The next build uses it.
    """
    from serve.jobs.build import align_catalogue, fine_tune_catalogue

    settings = load_settings(store=store, image_root=images)
    if lora:
        with bars(json) as progress:
            tuned = fine_tune_catalogue(settings, progress)
        print_result(json, tuned, render.fine_tuning)
        return
    with bars(json) as progress:
        report = align_catalogue(settings, progress)
    print_result(json, report, lambda _: render.alignment(report.facts))
    print_next(json, settings, "build")


@app.command()
def duplicates(
    out_file: Annotated[Path, typer.Option("--out", help="JSONL file to write, one group per line.")] = Path(
        "duplicates.jsonl"
    ),
    store: Store = None,
    images: Images = None,
    json: Json = False,
) -> None:
    """Find items with the same photo.

    Also finds photos that were scaled or compressed again.
    """
    from dataclasses import asdict

    import orjson

    from serve.jobs.find_duplicates import find_duplicates

    settings = load_settings(store=store, image_root=images)
    with bars(json) as progress:
        report = find_duplicates(settings, progress)
    lines = [orjson.dumps([asdict(image) for image in group]) + b"\n" for group in report.groups]
    out_file.write_bytes(b"".join(lines))
    print_result(json, report, lambda _: Group(render.duplicates(report), f"written to {out_file}"))


@app.command()
def publish(
    release: Annotated[str | None, typer.Argument(help="Name of the release.", show_default="the newest")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Publish even where it measures worse than the active release.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Publish a release.

    Exit code 1 where it measures worse than the active release, and is therefore not published.
    """
    from serve.jobs.build import publish as run
    from serve.release.repository import release_names

    settings = load_settings(store=store)
    name = release or next(iter(release_names(settings.store)), "")
    with bars(json) as progress:
        checks, published = run(settings, name, force, progress)
    print_result(json, {"release": name, "published": published, "checks": checks}, render.publication)
    if not published:
        raise typer.Exit(1)


@app.command()
def releases(store: Store = None, json: Json = False) -> None:
    """List the releases on disk."""
    from serve.release.repository import current_name, list_manifests

    settings = load_settings(store=store)
    current = current_name(settings.store)
    listed = [
        {"current": manifest.release == current, **manifest.model_dump(mode="json", exclude={"files"})}
        for manifest in list_manifests(settings.store)
    ]
    print_result(json, listed, render.releases)


@app.command()
def rollback(
    release: Annotated[
        str | None, typer.Argument(help="Name of the release.", show_default="the one before the active release")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Activate it even where its encoders cannot be loaded.")
    ] = False,
    store: Store = None,
    json: Json = False,
) -> None:
    """Activate an earlier release.

    Live changes stay. Running services follow within a second. An encoder that the active release does not have is
    loaded first, to see whether it is still the one that made the vectors.
    """
    from serve.jobs.build_checks import valid_manifest
    from serve.jobs.encoder_check import check_release_encoders
    from serve.release.repository import current_name, make_current, open_release, release_before
    from serve.security import audit_log

    settings = load_settings(store=store)
    name = release or release_before(settings.store)
    manifest = open_release(settings.store, name).manifest  # checked before anything changes
    if not force:
        current = current_name(settings.store)
        check_release_encoders(settings, manifest, valid_manifest(settings.store, current) if current else None)
    make_current(settings.store, name)
    audit_log.record(settings.store, "rollback", audit_log.command_line_user(), release=name)
    print_result(json, {"release": name}, lambda _: f"release {name} is active")


@index_app.command("curve")
def index_curve(
    space: Annotated[str | None, typer.Option(help="Space to draw.", show_default="all spaces")] = None,
    out_file: Annotated[Path, typer.Option("--out", help="PNG or SVG file to write.")] = Path("index-curve.png"),
    store: Store = None,
    json: Json = False,
) -> None:
    """Draw recall against query rate.

    Shows every index that the build tried for a space, and the one that it chose.
    """
    from serve.cli.render.plots import draw_curves
    from serve.release.repository import open_current

    settings = load_settings(store=store)
    manifest = open_current(settings.store).manifest
    if space is not None and space not in manifest.indexes:
        raise BadRequest(f"invalid space {space!r}: this release has {', '.join(manifest.indexes)}", "space")
    spaces = {name: entry for name, entry in manifest.indexes.items() if space in (None, name)}
    drawn = draw_curves(spaces, out_file)
    figures = {"spaces": {name: entry.note for name, entry in spaces.items()}, "file": str(out_file) if drawn else None}
    print_result(
        json,
        figures,
        lambda _: Group(
            *(f"{name}: {entry.note}" for name, entry in spaces.items()), *([f"drawn in {out_file}"] if drawn else [])
        ),
    )
