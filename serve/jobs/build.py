"""Builds a release: feed -> catalogue -> vectors -> indexes -> release. Repeats only the steps whose input changed."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from embed.alignment.lora import LoraReport
from embed.behaviour import Interactions
from embed.catalogue import Catalogue, IngestReport, check_items, ingest, read_report
from embed.durable import write_folder
from embed.encode_job import SpaceVectors
from index.item_ids import write_item_ids
from serve.core.errors import BadRequest
from serve.core.progress import Progress, stage_progress
from serve.core.settings import Settings
from serve.evaluation.drift_reference import measure_release
from serve.evaluation.encoder_comparison import compare_encoders
from serve.evaluation.release_gate import compare_releases
from serve.evaluation.replay import ReleaseReplay
from serve.jobs.align import AlignmentReport, ensure_alignment, fine_tune, learn_alignment
from serve.jobs.build_checks import (
    are_encoders_compared,
    check_spaces,
    content_hash,
    unpublished_release,
    valid_manifest,
)
from serve.jobs.build_indexes import build_indexes, build_tower
from serve.jobs.collect_behaviour import collect_behaviour, fitting_models, popular_searches
from serve.jobs.encode import encode, encode_on_ray, has_changed, load_encoders, nonempty_spaces
from serve.jobs.encoding_plan import EncodingPlan, plan_encoding
from serve.jobs.fold_journal import edits_beyond, fold_journal, prune_journal
from serve.jobs.learn_fusion_weights import learn_fusion_weights
from serve.jobs.lock import one_job_at_a_time
from serve.jobs.photo_check import check_photos
from serve.moderation.image_classifier import classify_catalogue
from serve.release.build_inputs import copy_mapping, load_mapping, read_build_inputs, write_build_inputs
from serve.release.images import image_source
from serve.release.manifest import Check, Manifest, Quality
from serve.release.release import ALIGNMENT, ITEMS_FILE, REFERENCE_FILE, Release
from serve.release.repository import (
    current_name,
    draft,
    list_manifests,
    make_current,
    open_release,
    prune,
    seal,
)
from serve.search.vocabulary import FOLDER as VOCABULARY_FOLDER
from serve.search.vocabulary import write_vocabulary
from serve.security import audit_log
from serve.storage.event_log import open_event_log


@dataclass(frozen=True)
class BuildReport:
    """The result of a build.

    `published` is False where the active release already had the same content, or measured better. `checks` compare the
    release with the active one. `folded` reports the live changes that the catalogue took up, None if there were none.
    `plan` is that of the encoding, None where no space was encoded anew. `notes` say what was left out or not compared.
    """

    manifest: Manifest
    published: bool
    ingest: IngestReport | None
    folded: IngestReport | None
    spaces: list[SpaceVectors]
    seconds: dict[str, float]
    checks: Sequence[Check] = ()
    plan: EncodingPlan | None = None
    notes: Sequence[str] = ()

    @property
    def refused(self) -> bool:
        """Whether the release was not published because it is worse than the active one."""
        return not self.published and any(check.worse for check in self.checks)


def ingest_feed(
    settings: Settings, feed: Path, format_: str | None = None, force: bool = False, progress: Progress | None = None
) -> IngestReport:
    """Read a feed into the store's catalogue."""
    with one_job_at_a_time(settings.store):
        return _ingest(settings, feed, format_, force, progress)


def encode_catalogue(
    settings: Settings, progress: Progress | None = None, engine: Literal["local", "ray"] = "local"
) -> list[SpaceVectors]:
    """Encode the new content of the store's catalogue, here or on a Ray cluster; return the rows of each space."""
    with one_job_at_a_time(settings.store):
        catalogue = Catalogue.current(settings.store)
        check_items(catalogue)
        if engine == "local":
            spaces = encode(settings, catalogue, load_encoders(settings), progress)
        else:
            spaces = encode_on_ray(settings, catalogue, progress)
        _remember_images(settings)
        return spaces


def align_catalogue(settings: Settings, progress: Progress | None = None) -> AlignmentReport:
    """Learn the alignment of texts and photos with the image space again; the next build uses it."""
    with one_job_at_a_time(settings.store):
        catalogue = Catalogue.current(settings.store)
        check_items(catalogue)
        spaces = nonempty_spaces(encode(settings, catalogue, load_encoders(settings), progress))
        report = learn_alignment(settings, catalogue, spaces, progress)
        _remember_images(settings)
        return report


def fine_tune_catalogue(settings: Settings, progress: Progress | None = None) -> LoraReport:
    """Fine-tune the CLIP model of the settings on the catalogue (LoRA)."""
    with one_job_at_a_time(settings.store):
        catalogue = Catalogue.current(settings.store)
        check_items(catalogue)
        spaces = nonempty_spaces(encode(settings, catalogue, load_encoders(settings), progress))
        report = fine_tune(settings, catalogue, spaces, progress)
        _remember_images(settings)
        return report


def _ingest(
    settings: Settings, feed: Path, format_: str | None, force: bool, progress: Progress | None
) -> IngestReport:
    previous, mapping = read_build_inputs(settings.store), load_mapping(settings)
    if format_ is None and previous.feed is not None and previous.feed.suffix == feed.suffix:
        format_ = previous.format
    ingest_progress = (lambda done, total: progress("ingest", done, total, "bytes")) if progress else None
    released = [manifest.journal for manifest in list_manifests(settings.store)]
    edits, position = edits_beyond(settings.store, feed, max(released, default=0))
    report = ingest(
        feed,
        settings.store,
        mapping=mapping,
        format=format_,
        force=force,
        edits=edits,
        journal=position,
        progress=ingest_progress,
    )
    inputs = previous.model_copy(update={"feed": feed.resolve(), "format": format_})
    if settings.mapping is not None:
        inputs = copy_mapping(settings.store, settings.mapping, inputs)
    write_build_inputs(settings.store, inputs)
    return report


def _remember_images(settings: Settings) -> None:
    """Keep the image folder for later jobs and the service, if one was given."""
    if settings.image_root is not None:
        inputs = read_build_inputs(settings.store)
        write_build_inputs(settings.store, inputs.model_copy(update={"images": settings.image_root.resolve()}))


def build(
    settings: Settings,
    feed: Path | None = None,
    format_: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
    announce: Callable[[EncodingPlan], None] | None = None,
) -> BuildReport:
    """Bring the store up to date with a feed and publish a release of it.

    A release that is worse than the active one (see serve.evaluation.release_gate) is not published, unless `force`.
    Where the settings name other encoders than the active release has, these are compared too (see
    serve.evaluation.encoder_comparison); the active release serves with its own until then.

    Args:
        settings: Settings; a mapping and an image folder that they leave out are those of the last build.
        feed: Feed to read; None builds the catalogue that the store has.
        format_: Format of the feed; None recognises it.
        force: Publish in any case.
        progress: Called as stages go on.
        announce: Called before anything is encoded, where a space of the active release is encoded anew.

    Returns:
        The release, and what was done for it.

    Raises:
        BadRequest: There is nothing to release; or, unless `force`, most photos cannot be read, or a space would lose
            more than half of its rows.
        StoreUnavailable: Another job holds the store's lock.
    """
    seconds: dict[str, float] = {}
    with one_job_at_a_time(settings.store):
        with _timed(seconds, "ingest"):
            ingested = _ingest(settings, feed, format_, force, progress) if feed else None
            folded = fold_journal(settings.store)
        catalogue = Catalogue.current(settings.store)
        check_items(catalogue)
        if not len(catalogue):
            raise BadRequest(f"{feed or 'the catalogue'} has no usable product, nothing to release", "feed")
        parent = current_name(settings.store)
        active = valid_manifest(settings.store, parent) if parent else None
        encoders, plan = load_encoders(settings), None
        if active is not None and has_changed(encoders, active):
            with _timed(seconds, "plan"):
                plan = plan_encoding(settings, catalogue, encoders, active)
            if announce:
                announce(plan)
        with _timed(seconds, "encode"):
            encoded = encode(settings, catalogue, encoders, progress)
            spaces = nonempty_spaces(encoded)
        if not force:
            check_photos(settings, catalogue, encoded)
        _remember_images(settings)
        if settings.review.classifier:
            with _timed(seconds, "review"), closing(image_source(settings)) as source:
                classify_catalogue(settings, catalogue, source, stage_progress(progress, "review images", "items"))
        with _timed(seconds, "align"):
            alignment = ensure_alignment(settings, catalogue, spaces, progress)
        with _timed(seconds, "behaviour"):
            behaviour, interactions = collect_behaviour(settings, catalogue, spaces)
        content = content_hash(settings, catalogue, spaces, alignment, behaviour)
        notes = fitting_models(settings.store, {space.space: space.fingerprint for space in spaces}).notes
        if not force:
            if active is not None and active.content == content:
                return BuildReport(active, False, ingested, folded, encoded, seconds, plan=plan, notes=notes)
            check_spaces(settings, active, spaces)
            if (built := unpublished_release(settings.store, content, active)) is not None:
                checks, published = _publish(settings, built.release, force, progress)
                return BuildReport(built, published, ingested, folded, encoded, seconds, checks, plan, notes)
        with draft(settings.store) as folder:
            with _timed(seconds, "index"):
                entries = build_indexes(settings, folder, catalogue, spaces, alignment, active, progress)
                tower = build_tower(settings, folder, catalogue, spaces, behaviour, interactions, active, progress)
                behaviour.write(folder / "behaviour")
                words = write_vocabulary(
                    folder / VOCABULARY_FOLDER,
                    catalogue,
                    settings.language,
                    popular_searches(settings),
                    stage_progress(progress, "vocabulary", "items"),
                )
                if alignment is not None:
                    write_folder(folder, ALIGNMENT, alignment.files())
                # A copy, not a link: damage to the catalogue's file does not reach the release.
                shutil.copyfile(catalogue.file, folder / ITEMS_FILE)
                write_item_ids(folder, (item_id.as_py() for item_id in catalogue.ids()))
            manifest = Manifest(
                parent=parent,
                content=content,
                created_at=datetime.now(UTC),
                catalogue=catalogue.version,
                feed=read_report(catalogue).feed,
                journal=read_report(catalogue).journal,
                items=len(catalogue),
                spaces=entries,
                tower=tower,
                alignment=alignment.facts if alignment is not None else None,
                words=words,
                behaviour=behaviour.metadata,
                seconds=seconds,
                versions={name: version(name) for name in ("vetrina", "torch", "onnxruntime")},
            )
            with _timed(seconds, "compare"):
                release = Release(folder, manifest)
                manifest.fusion_weights = learn_fusion_weights(settings, release)
                manifest.quality = _measure_quality(settings, release, interactions, folder)
                if active is not None:
                    parent_release = open_release(settings.store, active.release)
                    compared = compare_encoders(settings, catalogue, spaces, interactions, manifest, active, progress)
                    manifest.checks = [
                        *compared.checks,
                        *compare_releases(settings, release, parent_release, progress),
                    ]
                    notes += compared.notes
            seal(settings.store, folder, manifest)
        published = force or not any(check.worse for check in manifest.checks)
        if published:
            _activate(settings.store, manifest.release, force)
        prune(settings.store, settings.keep_releases)
        prune_journal(settings.store, list_manifests(settings.store))
        return BuildReport(manifest, published, ingested, folded, encoded, seconds, manifest.checks, plan, notes)


def plan_build(settings: Settings) -> EncodingPlan:
    """Plan what the next build of the store's catalogue encodes anew; changes nothing in the store."""
    catalogue = Catalogue.current(settings.store)
    check_items(catalogue)
    parent = current_name(settings.store)
    active = valid_manifest(settings.store, parent) if parent else None
    return plan_encoding(settings, catalogue, load_encoders(settings), active)


def publish(
    settings: Settings, name: str, force: bool = False, progress: Progress | None = None
) -> tuple[list[Check], bool]:
    """Publish a release unless it is worse than the active one; return the checks, and whether it was published.

    Raises NotFound for an unknown release, StoreUnavailable or Damaged for one that cannot be used, and, unless
    `force`, BadRequest for one whose encoders were not compared with those of the active release.
    """
    with one_job_at_a_time(settings.store):
        return _publish(settings, name, force, progress)


def _publish(settings: Settings, name: str, force: bool, progress: Progress | None) -> tuple[list[Check], bool]:
    release, current = open_release(settings.store, name), current_name(settings.store)
    active = valid_manifest(settings.store, current) if current else None
    checks = []
    if active is not None and active.release != name:
        if not force and not are_encoders_compared(release.manifest, active):
            raise BadRequest(
                f"release {name} has other encoders than the active one and was not compared with it: build again, go "
                f"back to it with vetrina rollback {name}, or publish with --force",
                "release",
            )
        # Both releases' vectors are what they were when the build compared them.
        compared = [check for check in release.manifest.checks if check.space and release.manifest.parent == current]
        checks = [
            *compared,
            *compare_releases(settings, release, open_release(settings.store, active.release), progress),
        ]
    if any(check.worse for check in checks) and not force:
        return checks, False
    _activate(settings.store, name, force)
    return checks, True


def _activate(store: Path, release: str, forced: bool) -> None:
    make_current(store, release)
    audit_log.record(store, "publish", audit_log.command_line_user(), release=release, forced=forced)


def _measure_quality(settings: Settings, release: Release, interactions: Interactions, folder: Path) -> Quality | None:
    """Measure the lists of a draft, and write the reference that drift is later measured against into its folder."""
    events = open_event_log(settings)
    try:
        quality, reference = measure_release(ReleaseReplay(release, settings, events), interactions)
    finally:
        events.close()
    if reference is not None:
        (folder / REFERENCE_FILE).write_text(reference.model_dump_json())
    return quality


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the seconds of a stage."""
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)
