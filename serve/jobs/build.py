"""The main job: feed -> catalogue -> vectors -> indexes -> release, redoing only what changed."""

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from embed.alignment.alignment import Alignment
from embed.alignment.lora import LoraReport
from embed.behaviour import Interactions, collect
from embed.catalogue import Catalogue, IngestReport, Mapping, check_items, ingest, read_report
from embed.durable import alone, write_folder
from embed.encode_job import SpaceVectors
from index.ids import write_ids
from serve.core.errors import BadRequest, StoreUnavailable
from serve.core.settings import Settings
from serve.evaluation.drift_reference import look
from serve.evaluation.release_gate import compare
from serve.evaluation.replay import ReleaseReplay
from serve.jobs.align import AlignmentReport, align, aligned, fine_tune
from serve.jobs.build_indexes import build_indexes, build_tower
from serve.jobs.encode import encode, encode_on_ray, filled
from serve.jobs.fold_journal import edits_beyond, fold_journal, prune_journal
from serve.jobs.learn_fusion_weights import weigh
from serve.moderation.image_classifier import review_catalogue
from serve.recommend.ranking.merchandising_rules import rules_file
from serve.recommend.retrieval.item_relations import FILE as RELATIONS
from serve.recommend.retrieval.item_relations import read_relations
from serve.recommend.retrieval.relation_graph import RelationGraph
from serve.recommend.retrieval.score_blend import LinearScoreModel
from serve.release.behaviour_model import Behaviour
from serve.release.images import image_source
from serve.release.manifest import Check, Manifest, Quality, check_files, read_manifest
from serve.release.release import ALIGNMENT, ITEMS_FILE, REFERENCE_FILE, Release
from serve.release.repository import (
    current_name,
    draft,
    list_manifests,
    make_current,
    open_release,
    prune,
    releases_folder,
    seal,
)
from serve.search.vocabulary import FOLDER as VOCABULARY_FOLDER
from serve.search.vocabulary import write_words
from serve.security import audit_log
from serve.storage.event_log import open_event_log
from serve.training.scorer_job import current_scorer
from serve.training.towers_job import current_towers

MAX_QUERIES = 50_000  # that are suggested
Progress = Callable[[str, float, float, str], None]
"""stage, done, total, unit: told as work goes on."""


@dataclass(frozen=True)
class BuildReport:
    """What a build did; `published` is False where the current release already held exactly this, or is better.

    `checks` are how the release measured beside the current one. `folded` tells of the live changes that came into the
    catalogue, if any did.
    """

    manifest: Manifest
    published: bool
    ingest: IngestReport | None
    folded: IngestReport | None
    spaces: list[SpaceVectors]
    seconds: dict[str, float]
    checks: Sequence[Check] = ()

    @property
    def refused(self) -> bool:
        """Whether there is a release that was not published because it is worse than the current one."""
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
    """Encode what is new in the store's catalogue, here or on a Ray cluster; the rows of each space."""
    with one_job_at_a_time(settings.store):
        catalogue = Catalogue.current(settings.store)
        check_items(catalogue)
        return (encode if engine == "local" else encode_on_ray)(settings, catalogue, progress)


def align_catalogue(settings: Settings, progress: Progress | None = None) -> AlignmentReport:
    """Learn anew how words and photos enter the image space; the next build takes it into its release."""
    with one_job_at_a_time(settings.store):
        catalogue = Catalogue.current(settings.store)
        check_items(catalogue)
        return align(settings, catalogue, filled(encode(settings, catalogue, progress)), progress)


def fine_tune_catalogue(settings: Settings, progress: Progress | None = None) -> LoraReport:
    """Fine-tune the CLIP model of the settings on the catalogue (LoRA)."""
    with one_job_at_a_time(settings.store):
        catalogue = Catalogue.current(settings.store)
        check_items(catalogue)
        return fine_tune(settings, catalogue, filled(encode(settings, catalogue, progress)), progress)


def _ingest(
    settings: Settings, feed: Path, format_: str | None, force: bool, progress: Progress | None
) -> IngestReport:
    mapping = Mapping.load(settings.mapping) if settings.mapping else None
    tell = (lambda done, total, rows: progress("ingest", done, total, "bytes")) if progress else None
    released = [manifest.journal for manifest in list_manifests(settings.store)]
    edits, position = edits_beyond(settings.store, feed, max(released, default=0))
    return ingest(
        feed,
        settings.store,
        mapping=mapping,
        format=format_,
        force=force,
        edits=edits,
        journal=position,
        progress=tell,
    )


def build(
    settings: Settings,
    feed: Path | None = None,
    format_: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> BuildReport:
    """Bring the store up to date with `feed` (or with the catalogue already in it) and publish a release of it.

    A release that is worse than the current one (serve.evaluation.release_gate) is not published, unless `force`.
    Raises
    BadRequest where there is nothing to release, or, unless `force`, where a space would lose more than half of its
    rows.
    """
    seconds: dict[str, float] = {}
    with one_job_at_a_time(settings.store):
        with _timed(seconds, "ingest"):
            ingested = _ingest(settings, feed, format_, force, progress) if feed else None
            folded = fold_journal(settings.store)
        catalogue = Catalogue.current(settings.store)
        check_items(catalogue)
        if not len(catalogue):
            raise BadRequest(f"{feed or 'the catalogue'} has no usable product: there is nothing to release", "feed")
        with _timed(seconds, "encode"):
            encoded = encode(settings, catalogue, progress)
            spaces = filled(encoded)
        if settings.review.classifier:
            with _timed(seconds, "review"), closing(image_source(settings)) as source:
                review_catalogue(settings, catalogue, source, _told(progress, "review"))
        with _timed(seconds, "align"):
            alignment = aligned(settings, catalogue, spaces, progress)
        with _timed(seconds, "behaviour"):
            behaviour, interactions = _behaviour(settings, catalogue, spaces)
        content = _content(settings, catalogue, spaces, alignment, behaviour)
        parent = current_name(settings.store)
        standing = _standing(settings.store, parent) if parent else None
        if not force:
            if standing is not None and standing.content == content:
                return BuildReport(standing, False, ingested, folded, encoded, seconds)
            _check_spaces(settings, standing, spaces)
            if (held := _held(settings.store, content)) is not None:
                checks, published = _publish(settings, held.release, force, progress)
                return BuildReport(held, published, ingested, folded, encoded, seconds, checks)
        with draft(settings.store) as folder:
            with _timed(seconds, "index"):
                entries = build_indexes(settings, folder, catalogue, spaces, alignment, standing, progress)
                tower = build_tower(settings, folder, catalogue, spaces, behaviour, interactions, standing, progress)
                behaviour.write(folder / "behaviour")
                words = write_words(
                    folder / VOCABULARY_FOLDER,
                    catalogue,
                    settings.language,
                    _searched(settings),
                    _told(progress, "words"),
                )
                if alignment is not None:
                    write_folder(folder, ALIGNMENT, alignment.files())
                # A copy, not a link: nothing that befalls the catalogue's file befalls the release.
                shutil.copyfile(catalogue.file, folder / ITEMS_FILE)
                write_ids(folder, (item_id.as_py() for item_id in catalogue.ids()))
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
                behaviour=behaviour.facts,
                seconds=seconds,
                versions={name: version(name) for name in ("vetrina", "torch", "onnxruntime")},
            )
            with _timed(seconds, "compare"):
                made = Release(folder, manifest)
                manifest.fusion_weights = weigh(settings, made)
                manifest.quality = _look(settings, made, interactions, folder)
                if standing is not None:
                    parent_release = open_release(settings.store, standing.release)
                    manifest.checks = compare(settings, made, parent_release, progress)
            seal(settings.store, folder, manifest)
        published = force or not any(check.worse for check in manifest.checks)
        if published:
            _activates(settings.store, manifest.release, force)
        prune(settings.store, settings.keep_releases)
        prune_journal(settings.store, list_manifests(settings.store))
        return BuildReport(manifest, published, ingested, folded, encoded, seconds, manifest.checks)


def publish(
    settings: Settings, name: str, force: bool = False, progress: Progress | None = None
) -> tuple[list[Check], bool]:
    """Let a release answer unless it is worse than the current one; how it measures beside that, and whether it does.

    Raises NotFound where there is none such, Broken or Damaged where it cannot be used.
    """
    with one_job_at_a_time(settings.store):
        return _publish(settings, name, force, progress)


def _publish(settings: Settings, name: str, force: bool, progress: Progress | None) -> tuple[list[Check], bool]:
    release, current = open_release(settings.store, name), current_name(settings.store)
    standing = _standing(settings.store, current) if current else None
    checks = []
    if standing is not None and standing.release != name:
        checks = compare(settings, release, open_release(settings.store, standing.release), progress)
    if any(check.worse for check in checks) and not force:
        return checks, False
    _activates(settings.store, name, force)
    return checks, True


def _activates(store: Path, release: str, forced: bool) -> None:
    make_current(store, release)
    audit_log.note(store, "publish", audit_log.operator(), release=release, forced=forced)


def _look(settings: Settings, made: Release, interactions: Interactions, folder: Path) -> Quality | None:
    """What a draft shows; it is kept in its folder as the reference of what will be shown."""
    events = open_event_log(settings)
    try:
        quality, reference = look(ReleaseReplay(made, settings, events), interactions)
    finally:
        events.close()
    if reference is not None:
        (folder / REFERENCE_FILE).write_text(reference.model_dump_json())
    return quality


def _held(store: Path, content: str) -> Manifest | None:
    """A release on disk, newer than the current one, that holds this already."""
    current = current_name(store) or ""
    found = (each for each in list_manifests(store) if each.release > current and each.content == content)
    return next((each for each in found if _standing(store, each.release) is not None), None)


def _behaviour(settings: Settings, catalogue: Catalogue, spaces: list[SpaceVectors]) -> tuple[Behaviour, Interactions]:
    """What the events of the store say of the catalogue's items, and the towers that fit its spaces."""
    store = open_event_log(settings)
    try:
        interactions, collected = collect((batch for _, batch in store.batches()), catalogue.ids(), settings.signal)
    finally:
        store.close()
    towers = current_towers(settings.store)
    if towers is not None:
        there = {space.space: space.fingerprint for space in spaces}
        if any(there.get(name) != fingerprint for name, (_, fingerprint) in towers.vocabulary.spaces.items()):
            towers = None  # trained on vectors of other encoders: until they are trained again, it goes without
    scorer = current_scorer(settings.store)
    names = tuple(sorted(space.space for space in spaces))
    if scorer is not None and (
        towers is None or (scorer.facts.towers, scorer.facts.spaces) != (towers.fingerprint, names)
    ):
        scorer = None  # trained with other towers or spaces: until it is trained again, the blend decides
    score_model = LinearScoreModel.model_validate(towers.facts["blend"]) if towers is not None else LinearScoreModel()
    first_seen = catalogue.table["updated_at"].to_numpy()
    # Counts are worth what they were at the last event: a log that has stood still for a year has not gone stale.
    now = min(time.time(), float(interactions.time.max(initial=0.0)))
    relations = read_relations(rules_file(settings).parent / RELATIONS)
    categories = catalogue.column("category").to_pylist() if relations.related else []
    behaviour = Behaviour.of(interactions, collected, first_seen, towers, score_model, settings.half_lives, now, scorer)
    if relations.related:
        visited = behaviour.covisitation.table
        behaviour = behaviour.knowing(RelationGraph.of(relations, catalogue.ids().to_pylist(), categories, visited))
    return behaviour, interactions


def _searched(settings: Settings) -> list[tuple[str, int]]:
    """What shoppers search for, and how many of them."""
    store = open_event_log(settings)
    try:
        return store.queries(MAX_QUERIES)
    finally:
        store.close()


def _told(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress(stage, done, total, "items")) if progress else None


def _content(
    settings: Settings,
    catalogue: Catalogue,
    spaces: list[SpaceVectors],
    alignment: Alignment | None,
    behaviour: Behaviour,
) -> str:
    digest = hashlib.blake2b(catalogue.version.encode(), digest_size=16)
    digest.update(settings.language.encode())
    # What an index is asked for, too: the same vectors are indexed anew where that has changed.
    engine = (settings.milvus_uri, settings.milvus_prefix) if settings.index_engine == "milvus" else ()
    digest.update(repr((settings.recall_target, settings.index_memory_mb, *engine)).encode())
    digest.update(alignment.fingerprint.encode() if alignment is not None else b"")
    digest.update(behaviour.facts.model_dump_json(exclude={"counted_at"}).encode())
    for space in spaces:
        digest.update(f"{space.space}:{space.fingerprint}:".encode())
        digest.update(space.owners.tobytes())
        digest.update(space.keys.tobytes())
    return digest.hexdigest()


def _standing(store: Path, name: str) -> Manifest | None:
    """The manifest of the current release, or None where it is damaged and so has to be built again."""
    try:
        manifest = read_manifest(releases_folder(store) / name)
        check_files(releases_folder(store) / name, manifest)
    except StoreUnavailable:
        return None
    return manifest


def _check_spaces(settings: Settings, standing: Manifest | None, spaces: list[SpaceVectors]) -> None:
    """A folder of images that is not mounted must not take a space out of the shop."""
    rows = {space.space: len(space.owners) for space in spaces}
    if not rows:
        raise BadRequest("no image of the catalogue could be used and no item has words: nothing to release", "images")
    for name, entry in standing.spaces.items() if standing else ():
        now = rows.get(name, 0)
        if 2 * now < entry.rows:
            failures = settings.store / "vectors" / name / entry.fingerprint / "failures.jsonl"
            raise BadRequest(
                f"space {name} would have {now} rows where the release that serves has {entry.rows}: not published, "
                f"for it would lose more than half. See {failures}, or force it",
                name,
            )


@contextmanager
def one_job_at_a_time(store: Path) -> Iterator[None]:
    """Ingest, encode and build write to the same files; the lock dies with its process."""
    store.mkdir(parents=True, exist_ok=True)
    taken = StoreUnavailable(f"another build is at work in store {store}: wait for it to end", "store")
    with alone(store / ".build.lock", taken):
        yield


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - started, 3)
