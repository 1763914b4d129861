"""The indexes of a draft: one of each space that encoders make, and one of where the towers place the items."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from embed.alignment.alignment import Alignment
from embed.behaviour import Interactions
from embed.catalogue import Catalogue
from embed.encode_job import SpaceVectors
from embed.encoders import choose_device
from index import gpu, snapshot
from index.milvus_index import LONGEST_TEXT
from index.space import Space
from index.threads import limit_threads
from serve.core.settings import Settings
from serve.recommend.ranking.item_features import ItemSignals
from serve.recommend.retrieval.retrievers import TOWER
from serve.release.behaviour_model import Behaviour
from serve.release.manifest import Manifest, SpaceEntry
from serve.release.repository import releases_folder
from serve.search.filters import NUMBERS, TEXTS
from serve.training.towers_job import gathered

MAX_ASKING = 1000  # shoppers whose vectors an index is chosen by
MIN_ASKING = 50
Progress = Callable[[str, float, float, str], None]


def build_indexes(
    settings: Settings,
    folder: Path,
    catalogue: Catalogue,
    spaces: list[SpaceVectors],
    alignment: Alignment | None,
    standing: Manifest | None,
    progress: Progress | None,
) -> dict[str, SpaceEntry]:
    limit_threads(choose_device("cpu", settings.threads).threads)
    gpu.allow(settings.device != "cpu")
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
            standing,
            progress,
            queries,
        )
        entries[space.name] = _entry(
            report, space, vectors.encoder, vectors.encoded, vectors.truncated, len(vectors.failures)
        )
    return entries


def build_tower(
    settings: Settings,
    folder: Path,
    catalogue: Catalogue,
    spaces: list[SpaceVectors],
    behaviour: Behaviour,
    interactions: Interactions,
    standing: Manifest | None,
    progress: Progress | None,
) -> SpaceEntry | None:
    """The index of where the towers place the items, chosen by what shoppers will ask of it; None without towers."""
    towers = behaviour.towers
    if towers is None:
        return None
    with gathered(folder / "gathered", spaces, len(catalogue)) as content:
        features = towers.vocabulary.features((item for batch in catalogue.batches() for item in batch), content)
        vectors = towers.item_vectors(features)
    behaviour.items = ItemSignals.made(towers.vocabulary, features, behaviour.trend, behaviour.first_seen)
    shutil.rmtree(folder / "gathered")
    owners = np.arange(len(catalogue), dtype=np.int32)
    space = Space(TOWER, vectors.shape[1], towers.fingerprint)

    def fill(out: NDArray[np.float32]) -> None:
        out[:] = vectors

    known = np.flatnonzero(np.diff(interactions.starts) > 0)
    asking = np.random.default_rng(0).permutation(known)[:MAX_ASKING]
    queries = towers.user_vectors(vectors, interactions.of(np.sort(asking))) if len(asking) >= MIN_ASKING else None
    report = _build_index(
        settings, folder, catalogue, space, owners, np.zeros_like(owners), fill, standing, progress, queries
    )
    return _entry(report, space, "towers", len(vectors), 0, 0)


def _build_index(
    settings: Settings,
    folder: Path,
    catalogue: Catalogue,
    space: Space,
    owners: NDArray[np.int32],
    labels: NDArray[np.int32],
    fill: Callable[[NDArray[np.float32]], None],
    standing: Manifest | None,
    progress: Progress | None,
    queries: NDArray[np.float32] | None = None,
) -> snapshot.IndexReport:
    stage = f"index {space.name}"
    report = snapshot.build(
        folder / "spaces" / space.name,
        space,
        owners,
        labels,
        len(catalogue),
        fill,
        settings.recall_target,
        None if settings.index_memory_mb is None else settings.index_memory_mb << 20,
        _earlier(settings.store, standing, space.name),
        _target(settings, folder, catalogue, space.name),
        partial(_tell, progress, stage) if progress else None,
        queries,
    )
    if progress:
        progress(stage, 1, 1, "indexes")
    return report


def _aligned_queries(spaces: list[SpaceVectors], alignment: Alignment) -> NDArray[np.float32] | None:
    """What will be asked of the image space, as far as it passes through adapters: items' photos and words."""
    taken = {"image": alignment.photos} if alignment.adapts_photos else {}
    if alignment.takes_words and not alignment.facts.joint:
        taken["text"] = alignment.words
    found = []
    for space in (space for space in spaces if space.space in taken):
        rows = np.random.default_rng(0).permutation(len(space.keys))[: MAX_ASKING // 2]
        vectors = np.empty((len(rows), space.dim), np.float32)
        space.store.gather(space.keys[rows], vectors)
        found.append(taken[space.space](vectors))
    return np.concatenate(found) if found and sum(map(len, found)) >= MIN_ASKING else None


def _entry(
    report: snapshot.IndexReport, space: Space, encoder: str, encoded: int, truncated: int, failed: int
) -> SpaceEntry:
    return SpaceEntry(
        encoder=encoder,
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


def _tell(progress: Progress, stage: str, done: int, total: int) -> None:
    progress(stage, done, total, "indexes")


def _target(settings: Settings, folder: Path, catalogue: Catalogue, space: str) -> snapshot.Target | None:
    """The collection that a space goes into where Milvus is the engine; its name ends in the draft's."""
    if settings.index_engine != "milvus":
        return None
    columns = catalogue.table.select([*TEXTS, "category", *NUMBERS, "available"])
    for place, column in enumerate(columns.columns):
        if column.type == pa.string():  # one text too long for Milvus must not stop a build; filters are shorter anyway
            short = pc.less_equal(pc.binary_length(column), LONGEST_TEXT)
            columns = columns.set_column(
                place, columns.field(place), pc.if_else(short, column, pa.scalar(None, pa.string()))
            )
    name = f"{settings.milvus_prefix}_{space}_{folder.name.rpartition('-')[2]}"
    return snapshot.Target(settings.milvus_uri, name, columns)


def _earlier(store: Path, standing: Manifest | None, space: str) -> snapshot.IndexReport | None:
    """How the space was indexed in the release that serves; its choice need not be made again."""
    if standing is None or space not in standing.indexes:
        return None
    return snapshot.read_report(releases_folder(store) / standing.release / "spaces" / space)
