"""Items, vectors and neighbours as Parquet, for other services: those of the current release with its live changes."""

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
from embed.durable import sync
from index.protocol import VectorIndex
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.live.replica import open_engine
from serve.recommend.retrieval.retrievers import TOWER
from serve.release.snapshot import Snapshot

AT_ONCE = 1000  # items of a row group
EACH = 100  # of these that a thread looks for the neighbours of
NEIGHBOURS_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("neighbour_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
    ]
)

Progress = Callable[[str, float, float, str], None]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class ExportReport:
    """How many rows of how many items were written where, from which release."""

    file: str
    release: str
    items: int
    rows: int
    seconds: float


class Neighbours(NamedTuple):
    """m pairs of an item and one of its neighbours, by number, [m], with the neighbour's rank from 1 and its score."""

    items: Numbers
    others: Numbers
    ranks: NDArray[np.int32]
    scores: NDArray[np.float32]


def export_items(settings: Settings, file: Path, progress: Progress | None = None) -> ExportReport:
    """All that the catalogue says of each item, in the columns of ITEM_SCHEMA; `file` is written whole or not at all.

    Those that changed since the release was built come last.
    """
    view = open_engine(settings).view
    return _written(file, view, ITEM_SCHEMA, {}, _items(view), progress)


def export_vectors(settings: Settings, file: Path, space: str, progress: Progress | None = None) -> ExportReport:
    """All rows that the items have in a space, of unit length; `label` says which image, or text, of its item each is.

    `file` is written whole or not at all. Raises BadRequest for a space that the release does not have.
    """
    view = open_engine(settings).view
    index = _index(view, space)
    schema = pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            pa.field("space", pa.string(), nullable=False),
            pa.field("label", pa.int32(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), index.space.dim), nullable=False),
        ]
    )
    return _written(file, view, schema, _described([index]), _vectors(view, index, schema), progress)


def export_neighbours(
    settings: Settings, file: Path, space: str | None, k: int, progress: Progress | None = None
) -> ExportReport:
    """The k items most like each item, as `similar` answers: by one space, or without one fused over all.

    `file` is written whole or not at all. Raises BadRequest for a space that the release does not have.
    """
    engine = open_engine(settings)
    view = engine.view
    indexes = [_index(view, name) for name in ([space] if space else view.spaces)]
    find = partial(_nearest, indexes[0], k) if len(indexes) == 1 else partial(_fused, engine, k)
    about = _described(indexes) | {"k": str(k)}
    with ThreadPoolExecutor(settings.threads or None) as pool:
        return _written(file, view, NEIGHBOURS_SCHEMA, about, _neighbours(view, find, pool), progress)


def _written(
    file: Path,
    view: Snapshot,
    schema: Any,
    about: Mapping[str, str],
    parts: Iterator[tuple[int, Any]],
    progress: Progress | None,
) -> ExportReport:
    """Write record batches, each told with how many items it is of, under a name of their own until all are there."""
    started = time.perf_counter()
    schema = schema.with_metadata({"release": view.release.name, "changes": str(view.position), **about})
    total, done, rows = view.items - len(view.deleted), 0, 0
    fresh = file.with_name(f".{file.name}.tmp")
    try:
        with pq.ParquetWriter(fresh, schema) as writer:
            for items, batch in parts:
                writer.write_batch(batch)
                done, rows = done + items, rows + batch.num_rows
                if progress:
                    progress("export", done, total, "items")
        sync(fresh)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
    return ExportReport(str(file), view.release.name, done, rows, round(time.perf_counter() - started, 2))


def _items(view: Snapshot) -> Iterator[tuple[int, Any]]:
    changed = np.sort(view.updated[0])
    as_built = np.ones(view.items, np.bool_)
    as_built[view.deleted] = as_built[changed] = False
    start = 0
    for batch in view.release.catalogue.record_batches():
        kept = batch.filter(pa.array(as_built[start : start + batch.num_rows]))
        yield kept.num_rows, kept
        start += batch.num_rows
    for item_indices in _batches(changed, AT_ONCE):
        yield len(item_indices), as_batch([view.item(item_index) for item_index in item_indices.tolist()])


def _vectors(view: Snapshot, index: VectorIndex, schema: Any) -> Iterator[tuple[int, Any]]:
    for item_indices in _batches(_there(view), AT_ONCE):
        labels, vectors = zip(*map(index.rows_of, item_indices.tolist()), strict=True)
        counts = [len(of) for of in labels]
        ids = np.repeat(np.array([view.text(item_index) for item_index in item_indices.tolist()], object), counts)
        rows = pa.FixedSizeListArray.from_arrays(np.concatenate(vectors).ravel(), index.space.dim)
        columns = [ids, [index.space.name] * len(ids), np.concatenate(labels), rows]
        yield len(item_indices), pa.record_batch(columns, schema)


def _neighbours(
    view: Snapshot, find: Callable[[Numbers], Neighbours], pool: ThreadPoolExecutor
) -> Iterator[tuple[int, Any]]:
    there = _there(view)
    ids = pa.array([view.text(item_index) for item_index in there.tolist()], pa.string())
    for item_indices in _batches(there, AT_ONCE):
        found = Neighbours(*map(np.concatenate, zip(*pool.map(find, _batches(item_indices, EACH)), strict=True)))
        columns = [ids.take(pa.array(there.searchsorted(of))) for of in (found.items, found.others)]
        yield len(item_indices), pa.record_batch([*columns, found.ranks, found.scores], NEIGHBOURS_SCHEMA)


def _nearest(index: VectorIndex, k: int, item_indices: Numbers) -> Neighbours:
    """The neighbours of some items in one space, by one search."""
    vectors = index.vectors_of(item_indices)
    known = vectors.any(axis=1)
    item_indices = item_indices[known]
    if not len(item_indices):
        return _pairs([])
    hits = index.search(vectors[known], k + 1)
    others = (hits.ids >= 0) & (hits.ids != item_indices[:, None])
    ranks = others.cumsum(axis=1, dtype=np.int32)
    others &= ranks <= k
    return Neighbours(item_indices[others.nonzero()[0]], hits.ids[others], ranks[others], hits.scores[others])


def _fused(engine: Engine, k: int, item_indices: Numbers) -> Neighbours:
    """The neighbours of some items by all spaces together."""
    return _pairs(
        [
            (item_index, one.item_index, rank, one.score)
            for item_index in item_indices.tolist()
            for rank, one in enumerate(engine.similar([engine.view.text(item_index)], k), 1)
        ]
    )


def _pairs(rows: Sequence[tuple[int, int, int, float]]) -> Neighbours:
    items, others, ranks, scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Neighbours(
        np.array(items, np.int64), np.array(others, np.int64), np.array(ranks, np.int32), np.array(scores, np.float32)
    )


def _index(view: Snapshot, space: str) -> VectorIndex:
    known = dict(view.spaces) | ({TOWER: view.tower} if view.tower is not None else {})
    if space not in known:
        raise BadRequest(f"there is no space {space!r}: this release has {', '.join(known)}", "space")
    return known[space]


def _described(indexes: list[VectorIndex]) -> dict[str, str]:
    """What a reader has to know of scores and vectors; of several spaces, one after the other."""
    return {
        "space": ",".join(index.space.name for index in indexes),
        "fingerprint": ",".join(index.space.fingerprint for index in indexes),
        "metric": "cosine" if len(indexes) == 1 else "fused",
    }


def _there(view: Snapshot) -> Numbers:
    """The numbers of all items that are there, in rising order."""
    return np.delete(view.everything, view.deleted)


def _batches(item_indices: Numbers, size: int) -> Iterator[Numbers]:
    for start in range(0, len(item_indices), size):
        yield item_indices[start : start + size]
