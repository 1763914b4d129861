"""Exports items, vectors and neighbours to Parquet: those of the active release with its live changes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embed.catalogue import as_batch
from embed.catalogue.item import ITEM_SCHEMA
from embed.durable import atomic_path
from index.protocol import VectorIndex
from serve.core.errors import BadRequest
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.live.replica import open_engine
from serve.recommend.retrieval.retriever import TOWER
from serve.release.snapshot import Snapshot

BATCH = 1000  # items per row group
THREAD_BATCH = 100  # items whose neighbours a thread searches at a time
NEIGHBOURS_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("neighbour_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)

ItemIndices = NDArray[np.int64]


@dataclass(frozen=True)
class ExportReport:
    """The number of rows and items written to a file, and the release that they come from."""

    file: str
    release: str
    items: int
    rows: int
    seconds: float


class Neighbours(NamedTuple):
    """m pairs of item and neighbour: their indices, [m], the neighbour's rank from 1, [m], and its score, [m]."""

    items: ItemIndices
    others: ItemIndices
    ranks: NDArray[np.int32]
    scores: NDArray[np.float32]


def export_items(settings: Settings, file: Path, progress: Progress | None = None) -> ExportReport:
    """Write all columns of the catalogue (ITEM_SCHEMA) in one atomic step; items changed since the build come last."""
    snapshot = open_engine(settings).snapshot
    return _write(file, snapshot, ITEM_SCHEMA, {}, _items(snapshot), progress)


def export_vectors(settings: Settings, file: Path, space: str, progress: Progress | None = None) -> ExportReport:
    """Write the unit vectors of a space in one atomic step; `label` is the index of the photo, or text, of its item.

    Raises BadRequest for a space that the release does not have.
    """
    snapshot = open_engine(settings).snapshot
    index = _index(snapshot, space)
    schema = pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("space", pa.string(), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), index.space.dim), nullable=False),
        ]
    )
    return _write(file, snapshot, schema, _metadata([index]), _vectors(snapshot, index, schema), progress)


def export_neighbours(
    settings: Settings, file: Path, space: str | None, k: int, progress: Progress | None = None
) -> ExportReport:
    """Write the k most similar items of each item in one atomic step: in one space, or fused over all.

    Raises BadRequest for a space that the release does not have.
    """
    engine = open_engine(settings)
    snapshot = engine.snapshot
    indexes = [_index(snapshot, name) for name in ([space] if space else snapshot.spaces)]
    find = partial(_nearest, indexes[0], k) if len(indexes) == 1 else partial(_fused, engine, k)
    metadata = _metadata(indexes) | {"k": str(k)}
    with ThreadPoolExecutor(settings.threads or None) as pool:
        return _write(file, snapshot, NEIGHBOURS_SCHEMA, metadata, _neighbours(snapshot, find, pool), progress)


def _write(
    file: Path,
    snapshot: Snapshot,
    schema: Any,
    metadata: Mapping[str, str],
    parts: Iterator[tuple[int, Any]],
    progress: Progress | None,
) -> ExportReport:
    """Write record batches, each with its number of items, to a Parquet file in one atomic step."""
    started = time.perf_counter()
    schema = schema.with_metadata({"release": snapshot.release.name, "changes": str(snapshot.position), **metadata})
    total, done, rows = snapshot.items - len(snapshot.deleted), 0, 0
    with atomic_path(file) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for items, batch in parts:
            writer.write_batch(batch)
            done, rows = done + items, rows + batch.num_rows
            if progress:
                progress("export", done, total, "items")
    return ExportReport(str(file), snapshot.release.name, done, rows, round(time.perf_counter() - started, 2))


def _items(snapshot: Snapshot) -> Iterator[tuple[int, Any]]:
    changed = np.sort(snapshot.updated[0])
    as_built = np.ones(snapshot.items, np.bool_)
    as_built[snapshot.deleted] = as_built[changed] = False
    start = 0
    for batch in snapshot.release.catalogue.record_batches():
        kept = batch.filter(pa.array(as_built[start : start + batch.num_rows]))
        yield kept.num_rows, kept
        start += batch.num_rows
    for item_indices in _batches(changed, BATCH):
        yield len(item_indices), as_batch([snapshot.item(item_index) for item_index in item_indices.tolist()])


def _vectors(snapshot: Snapshot, index: VectorIndex, schema: Any) -> Iterator[tuple[int, Any]]:
    for item_indices in _batches(_item_indices(snapshot), BATCH):
        labels, vectors = zip(*map(index.item_rows, item_indices.tolist()), strict=True)
        counts = [len(of) for of in labels]
        ids = np.repeat(
            np.array([snapshot.item_id(item_index) for item_index in item_indices.tolist()], object), counts
        )
        rows = pa.FixedSizeListArray.from_arrays(np.concatenate(vectors).ravel(), index.space.dim)
        columns = [ids, [index.space.name] * len(ids), np.concatenate(labels), rows]
        yield len(item_indices), pa.record_batch(columns, schema)


def _neighbours(
    snapshot: Snapshot, find: Callable[[ItemIndices], Neighbours], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Any]]:
    there = _item_indices(snapshot)
    ids = pa.array([snapshot.item_id(item_index) for item_index in there.tolist()], pa.string())
    for item_indices in _batches(there, BATCH):
        found = Neighbours(
            *map(np.concatenate, zip(*pool.map(find, _batches(item_indices, THREAD_BATCH)), strict=True))
        )
        columns = [ids.take(pa.array(there.searchsorted(of))) for of in (found.items, found.others)]
        yield len(item_indices), pa.record_batch([*columns, found.ranks, found.scores], NEIGHBOURS_SCHEMA)


def _nearest(index: VectorIndex, k: int, item_indices: ItemIndices) -> Neighbours:
    """Search the neighbours of items in one space, in one batch."""
    vectors = index.first_vectors(item_indices)
    known = vectors.any(axis=1)
    item_indices = item_indices[known]
    if not len(item_indices):
        return _pairs([])
    hits = index.search(vectors[known], k + 1)
    others = (hits.items >= 0) & (hits.items != item_indices[:, None])
    ranks = others.cumsum(axis=1, dtype=np.int32)
    others &= ranks <= k
    return Neighbours(item_indices[others.nonzero()[0]], hits.items[others], ranks[others], hits.scores[others])


def _fused(engine: Engine, k: int, item_indices: ItemIndices) -> Neighbours:
    """Search the neighbours of items in all spaces, fused."""
    return _pairs(
        [
            (item_index, one.item_index, rank, one.score)
            for item_index in item_indices.tolist()
            for rank, one in enumerate(engine.similar([engine.snapshot.item_id(item_index)], k), 1)
        ]
    )


def _pairs(rows: Sequence[tuple[int, int, int, float]]) -> Neighbours:
    items, others, ranks, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Neighbours(
        np.array(items, np.int64), np.array(others, np.int64), np.array(ranks, np.int32), np.array(scores, np.float32)
    )


def _index(snapshot: Snapshot, space: str) -> VectorIndex:
    indexes = dict(snapshot.spaces) | ({TOWER: snapshot.tower} if snapshot.tower is not None else {})
    if space not in indexes:
        raise BadRequest(f"invalid space {space!r}: this release has {', '.join(indexes)}", "space")
    return indexes[space]


def _metadata(indexes: list[VectorIndex]) -> dict[str, str]:
    """Describe scores and vectors in the file's metadata; several spaces are separated by commas."""
    return {
        "space": ",".join(index.space.name for index in indexes),
        "fingerprint": ",".join(index.space.fingerprint for index in indexes),
        "metric": "cosine" if len(indexes) == 1 else "fused",
    }


def _item_indices(snapshot: Snapshot) -> ItemIndices:
    """Return the indices of all items that are not deleted, ascending."""
    return np.delete(snapshot.everything, snapshot.deleted)


def _batches(item_indices: ItemIndices, size: int) -> Iterator[ItemIndices]:
    for start in range(0, len(item_indices), size):
        yield item_indices[start : start + size]
