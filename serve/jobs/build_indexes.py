"""Builds the indexes of a draft: one for each space of the encoders, and one for the item vectors of the towers."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embed.alignment.alignment import Alignment
from embed.behaviour import Interactions
from embed.catalogue import Catalogue
from embed.encode_job import SpaceVectors
from embed.encoders import EncoderOptions, choose_device
from index import gpu, index_folder
from index.milvus_index import MAX_TEXT_BYTES
from index.space import Space
from index.threads import limit_threads
from serve.core.progress import Progress, stage_progress
from serve.core.settings import Settings
from serve.jobs.photo_check import read_failures
from serve.recommend.ranking.item_signals import ItemSignals
from serve.recommend.retrieval.retriever import TOWER
from serve.release.behaviour_model import BehaviourModel
from serve.release.manifest import Manifest, SpaceEntry
from serve.release.repository import releases_folder
from serve.search.filters import NUMBERS, TEXTS
from serve.training.towers_job import gathered

MAX_QUERIES = 1000  # sample queries by which an index is tuned
MIN_QUERIES = 50


def build_indexes(
    settings: Settings,
    folder: Path,
    catalogue: Catalogue,
    spaces: list[SpaceVectors],
    alignment: Alignment | None,
    active: Manifest | None,
    progress: Progress | None,
) -> dict[str, SpaceEntry]:
    """Build the index of each space.

    Args:
        settings: Settings.
        folder: Folder of the draft.
        catalogue: Items of the release.
        spaces: Vectors of each space.
        alignment: How queries enter the image space; None without one.
        active: Manifest of the active release, whose tuned index types are reused; None without one.
        progress: Called as stages go on.

    Returns:
        The manifest entry of each space.
    """
    limit_threads(choose_device("cpu", settings.threads).threads)
    gpu.set_gpu_enabled(settings.device != "cpu")
    entries = {}
    for vectors in spaces:
        space = Space(vectors.space, vectors.dim, vectors.fingerprint)
        queries = _aligned_queries(spaces, alignment) if space.name == "image" and alignment is not None else None
        report = _build_index(
            settings,
            folder,
            catalogue,
            space,
            vectors.owners,
            vectors.labels,
            vectors.gather,
            active,
            progress,
            queries,
        )
        entries[space.name] = _entry(
            report,
            space,
            vectors.encoder,
            settings.encoder_options(vectors.encoder),
            vectors.encoded,
            vectors.truncated,
            len(read_failures(vectors.failures, settings)),
        )
    return entries


def build_tower(
    settings: Settings,
    folder: Path,
    catalogue: Catalogue,
    spaces: list[SpaceVectors],
    behaviour: BehaviourModel,
    interactions: Interactions,
    active: Manifest | None,
    progress: Progress | None,
) -> SpaceEntry | None:
    """Build the index of the towers' item vectors, tuned with users' vectors as queries; None without towers.

    Args:
        settings: Settings.
        folder: Folder of the draft.
        catalogue: Items of the release.
        spaces: Vectors of each space, which the towers take in.
        behaviour: The towers, and what else was learned; its `items` are set.
        interactions: Users' interactions, whose vectors are the queries.
        active: Manifest of the active release, whose tuned index type is reused; None without one.
        progress: Called as stages go on.

    Returns:
        The manifest entry of the space.
    """
    towers = behaviour.towers
    if towers is None:
        return None
    with gathered(folder / "gathered", spaces, len(catalogue)) as content:
        features = towers.vocabulary.features((item for batch in catalogue.batches() for item in batch), content)
        vectors = towers.item_vectors(features)
    behaviour.items = ItemSignals.build(towers.vocabulary, features, behaviour.trend, behaviour.first_seen)
    shutil.rmtree(folder / "gathered")
    owners = np.arange(len(catalogue), dtype=np.int32)
    space = Space(TOWER, vectors.shape[1], towers.fingerprint)

    def fill(out: NDArray[np.float32]) -> None:
        out[:] = vectors

    users = np.flatnonzero(np.diff(interactions.starts) > 0)
    sample = np.random.default_rng(0).permutation(users)[:MAX_QUERIES]
    queries = (
        towers.user_vectors(vectors, interactions.select_users(np.sort(sample))) if len(sample) >= MIN_QUERIES else None
    )
    report = _build_index(
        settings, folder, catalogue, space, owners, np.zeros_like(owners), fill, active, progress, queries
    )
    return _entry(report, space, "towers", None, len(vectors), 0, 0)


def _build_index(
    settings: Settings,
    folder: Path,
    catalogue: Catalogue,
    space: Space,
    owners: NDArray[np.int32],
    labels: NDArray[np.int32],
    fill: Callable[[NDArray[np.float32]], None],
    active: Manifest | None,
    progress: Progress | None,
    queries: NDArray[np.float32] | None = None,
) -> index_folder.IndexReport:
    stage = f"index {space.name}"
    report = index_folder.build_index(
        folder / "spaces" / space.name,
        space,
        owners,
        labels,
        len(catalogue),
        fill,
        settings.recall_target,
        None if settings.index_memory_mb is None else settings.index_memory_mb << 20,
        _active_report(settings.store, active, space.name),
        _target(settings, folder, catalogue, space.name),
        stage_progress(progress, stage, "indexes"),
        queries,
    )
    if progress:
        progress(stage, 1, 1, "indexes")
    return report


def _aligned_queries(spaces: list[SpaceVectors], alignment: Alignment) -> NDArray[np.float32] | None:
    """Return sample queries of the image space that pass through an adapter: photos and texts of items; None if few."""
    adapters = {"image": alignment.adapt_photos} if alignment.has_photo_adapter else {}
    if alignment.has_text_adapter and not alignment.facts.joint:
        adapters["text"] = alignment.adapt_texts
    queries = []
    for space in (space for space in spaces if space.space in adapters):
        rows = np.random.default_rng(0).permutation(len(space.keys))[: MAX_QUERIES // 2]
        vectors = np.empty((len(rows), space.dim), np.float32)
        space.store.gather(space.keys[rows], vectors)
        queries.append(adapters[space.space](vectors))
    return np.concatenate(queries) if queries and sum(map(len, queries)) >= MIN_QUERIES else None


def _entry(
    report: index_folder.IndexReport,
    space: Space,
    encoder: str,
    options: EncoderOptions | None,
    encoded: int,
    truncated: int,
    failed: int,
) -> SpaceEntry:
    return SpaceEntry(
        encoder=encoder,
        options=options,
        fingerprint=space.fingerprint,
        dim=space.dim,
        rows=report.rows,
        encoded=encoded,
        truncated=truncated,
        failed=failed,
        rejected=report.rejected,
        factory=report.factory,
        efforts=list(report.efforts),
        recall10=report.recall10,
        latency_ms=report.latency_ms,
        bytes=report.bytes,
        bytes_per_vector=report.bytes_per_vector,
        recall_target=report.recall_target,
        curve=list(report.curve),
        note=report.note,
        uri=report.uri,
        collection=report.collection,
    )


def _target(settings: Settings, folder: Path, catalogue: Catalogue, space: str) -> index_folder.MilvusTarget | None:
    """Return the Milvus collection of a space, whose name ends in the draft's; None where Milvus is not the engine."""
    if settings.index_engine != "milvus":
        return None
    columns = catalogue.table.select([*TEXTS, "category", *NUMBERS, "available"])
    for position, column in enumerate(columns.columns):
        if column.type == pa.string():  # texts too long for Milvus must not stop a build; filters are shorter
            short = pc.less_equal(pc.binary_length(column), MAX_TEXT_BYTES)
            columns = columns.set_column(
                position, columns.field(position), pc.if_else(short, column, pa.scalar(None, pa.string()))
            )
    name = f"{settings.milvus_prefix}_{space}_{folder.name.rpartition('-')[2]}"
    return index_folder.MilvusTarget(settings.milvus_uri, name, columns)


def _active_report(store: Path, active: Manifest | None, space: str) -> index_folder.IndexReport | None:
    """Read how the active release indexed the space, so that its index type need not be chosen again."""
    if active is None or space not in active.indexes:
        return None
    return index_folder.read_report(releases_folder(store) / active.release / "spaces" / space)
