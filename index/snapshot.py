"""An index as a folder of files: built there, measured, described by `space.json`, opened memory-mapped."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from index import faiss_index
from index.array_file import load_array
from index.errors import BadQuery, Damaged, Missing
from index.exact import TIE, ExactIndex
from index.faiss_index import FaissIndex
from index.space import Owners, Space, Vectors, sound_rows

FLAT_BELOW = 20_000  # rows up to which scanning all is fast enough on one core
RECALL_TARGET = 0.95
PROBES = 256  # queries that recall and latency are measured with
MEASURED_K = 10
BLOCK = 1 << 14  # rows copied at once


@dataclass(frozen=True)
class IndexReport:
    """What an index is and how it measured; also what `space.json` holds.

    `recall10` is against exact search, with `PROBES` rows of the index as queries and the query's own item left out.
    `latency_ms` is the median of one query at a time. `rejected` rows were NaN, zero or infinite.
    """

    space: Space
    factory: str
    effort: int
    rows: int
    items: int
    rejected: int
    recall10: float
    latency_ms: float
    bytes: int
    build_s: float


def build(
    folder: Path, space: Space, owners: Owners, labels: Owners, items: int, fill: Callable[[Vectors], None]
) -> IndexReport:
    """Build the index of `space` in `folder` (made here) and measure it.

    `owners` [n] is the item number of each row, never decreasing, each below `items`; `labels` [n] are kept with the
    rows; `fill` writes the rows into an array [n, dim], which lies on disk. Raises BadQuery where the owners do not
    fit.
    """
    started = time.perf_counter()
    if len(owners) and ((np.diff(owners) < 0).any() or owners[0] < 0 or owners[-1] >= items):
        raise BadQuery(f"owners must not decrease and lie in 0..{items - 1}", "owners")
    folder.mkdir(parents=True)
    path = folder / "vectors.npy"
    vectors: Vectors = np.lib.format.open_memmap(path, "w+", np.float32, (len(owners), space.dim))
    if len(owners):
        fill(vectors)
    vectors, kept = _drop_unsound(path, vectors)
    owners, labels = owners[kept], labels[kept]
    np.save(folder / "owners.npy", owners, allow_pickle=False)
    np.save(folder / "labels.npy", labels, allow_pickle=False)

    factory = _choose_factory(len(vectors))
    index = ExactIndex(space, vectors, owners, labels, items)
    if factory != "Flat":
        raw = faiss_index.train(vectors, factory)
        faiss_index.write(raw, folder / "index.faiss")
        index = FaissIndex(space, factory, raw, vectors, owners, labels, items, effort=1)
    recall, latency = _reach_recall(index)
    size = sum(file.stat().st_size for file in folder.iterdir())
    report = IndexReport(
        space,
        factory,
        index.effort,
        len(owners),
        items,
        int((~kept).sum()),
        recall,
        latency,
        size,
        round(time.perf_counter() - started, 3),
    )
    (folder / "space.json").write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2))
    return report


def open_index(folder: Path) -> ExactIndex:
    """Memory-map the index in `folder`; raises Missing or Damaged with the file's name."""
    described = read_report(folder)
    owners = load_array(folder / "owners.npy", np.int32, (described.rows,))
    if len(owners) and (owners[0] < 0 or owners[-1] >= described.items or (np.diff(owners) < 0).any()):
        raise Damaged(f"{folder / 'owners.npy'} names items outside 0..{described.items - 1}", "owners.npy")
    labels = load_array(folder / "labels.npy", np.int32, (described.rows,))
    vectors = load_array(folder / "vectors.npy", np.float32, (described.rows, described.space.dim))
    if described.factory == "Flat":
        return ExactIndex(described.space, vectors, owners, labels, described.items)
    raw = faiss_index.read(folder / "index.faiss", described.rows, described.space.dim)
    return FaissIndex(
        described.space, described.factory, raw, vectors, owners, labels, described.items, described.effort
    )


def read_report(folder: Path) -> IndexReport:
    """What `space.json` says of the index in `folder`."""
    path = folder / "space.json"
    try:
        described = orjson.loads(path.read_bytes())
        return IndexReport(**{**described, "space": Space(**described["space"])})
    except FileNotFoundError as error:
        raise Missing(f"there is no index in {folder}: {path.name} is missing", path.name) from error
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{path} does not describe an index ({error})", path.name) from error


def _choose_factory(rows: int) -> str:
    if rows < FLAT_BELOW:
        return "Flat"
    return f"IVF{min(rows // 39, 4 * round(rows**0.5))},SQ8"  # FAISS wants 39 training rows a centroid


def _drop_unsound(path: Path, vectors: Vectors) -> tuple[Vectors, Any]:
    """Normalise the rows on disk block by block; rewrite the file without those that have no direction."""
    kept = np.ones(len(vectors), dtype=np.bool_)
    for start in range(0, len(vectors), BLOCK):
        block = slice(start, start + BLOCK)
        rows, kept[block] = sound_rows(vectors[block])
        vectors[block][kept[block]] = rows
    if kept.all():
        return vectors, kept
    fresh = path.with_suffix(".tmp")
    sound: Vectors = np.lib.format.open_memmap(fresh, "w+", np.float32, (int(kept.sum()), vectors.shape[1]))
    places = np.flatnonzero(kept)
    for start in range(0, len(places), BLOCK):
        sound[start : start + BLOCK] = vectors[places[start : start + BLOCK]]
    fresh.replace(path)
    return sound, kept


def _reach_recall(index: ExactIndex) -> tuple[float, float]:
    """Recall@10 and median latency in ms; an IVF's effort is doubled until recall reaches the target."""
    if len(index.vectors) < 2:
        return 1.0, 0.0
    chosen = np.sort(
        np.random.default_rng(0).choice(len(index.vectors), min(PROBES, len(index.vectors)), replace=False)
    )
    queries, own = np.ascontiguousarray(index.vectors[chosen]), index.owners[chosen]
    exact = ExactIndex(index.space, index.vectors, index.owners, index.labels, index.items)
    truth = exact.search(queries, MEASURED_K + 1)
    while True:
        latencies, recalls = [], []
        for query in range(len(queries)):
            started = time.perf_counter()
            hits = index.search(queries[query : query + 1], MEASURED_K + 1)
            latencies.append(time.perf_counter() - started)
            right = truth.scores[query][truth.ids[query] != own[query]][:MEASURED_K]
            right = right[np.isfinite(right)]
            if len(right):
                # By score, not by id: of items that tie for the last place, any is right.
                found = hits.scores[0][hits.ids[0] != own[query]]
                recalls.append(min(1.0, float((found >= right[-1] - 2 * TIE).sum()) / len(right)))
        recall = float(np.mean(recalls)) if recalls else 1.0
        if recall >= RECALL_TARGET or not isinstance(index, FaissIndex) or index.effort >= index.lists:
            return round(recall, 4), round(float(np.median(latencies)) * 1000, 4)
        index.effort *= 2
