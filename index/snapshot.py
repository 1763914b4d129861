"""An index as a folder of files: built there, measured, described by `space.json`, opened memory-mapped."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from index import faiss_index
from index.errors import BadQuery, Damaged, Missing
from index.exact import TIE, exact_search
from index.faiss_index import FaissIndex
from index.space import Owners, Space, Vectors, sound_rows

FLAT_BELOW = 20_000  # rows up to which scanning all is fast enough on one core
RECALL_TARGET = 0.95
PROBES = 256  # queries that recall and latency are measured with
MEASURED_K = 10


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
    raw = faiss_index.train(vectors, factory)
    faiss_index.write(raw, folder / "index.faiss")
    index = FaissIndex(space, raw, vectors, owners, labels, items, effort=1 if factory.startswith("IVF") else 0)
    recall, latency = _reach_recall(index)
    if factory == "Flat":
        path.unlink()  # a Flat index holds the vectors themselves
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


def open_index(folder: Path) -> FaissIndex:
    """Memory-map the index in `folder`; raises Missing or Damaged with the file's name."""
    described = read_report(folder)
    owners = _load_npy(folder / "owners.npy", np.int32, (described.rows,))
    if len(owners) and (owners[0] < 0 or owners[-1] >= described.items or (np.diff(owners) < 0).any()):
        raise Damaged(f"{folder / 'owners.npy'} names items outside 0..{described.items - 1}", "owners.npy")
    labels = _load_npy(folder / "labels.npy", np.int32, (described.rows,))
    raw = faiss_index.read(folder / "index.faiss", described.rows, described.space.dim)
    if described.factory == "Flat":
        vectors = faiss_index.flat_vectors(raw)
    else:
        vectors = _load_npy(folder / "vectors.npy", np.float32, (described.rows, described.space.dim))
    return FaissIndex(described.space, raw, vectors, owners, labels, described.items, described.effort)


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
    for start in range(0, len(vectors), 1 << 14):
        block = slice(start, start + (1 << 14))
        rows, kept[block] = sound_rows(vectors[block])
        vectors[block][kept[block]] = rows
    if kept.all():
        return vectors, kept
    fresh = path.with_suffix(".tmp")
    sound: Vectors = np.lib.format.open_memmap(fresh, "w+", np.float32, (int(kept.sum()), vectors.shape[1]))
    sound[:] = vectors[kept]
    fresh.replace(path)
    return sound, kept


def _reach_recall(index: FaissIndex) -> tuple[float, float]:
    """Double the effort until recall@10 reaches the target or all is searched; recall and median latency in ms."""
    if len(index.vectors) < 2:
        return 1.0, 0.0
    chosen = np.random.default_rng(0).choice(len(index.vectors), min(PROBES, len(index.vectors)), replace=False)
    queries = np.ascontiguousarray(index.vectors[np.sort(chosen)])
    own = index.owners[np.sort(chosen)]
    truth = exact_search(index.vectors, index.owners, queries, MEASURED_K + 1)
    while True:
        latencies, overlaps = [], []
        for query in range(len(queries)):
            started = time.perf_counter()
            hits = index.search(queries[query : query + 1], MEASURED_K + 1)
            latencies.append(time.perf_counter() - started)
            # By score, not by id: of items that tie for the last place, any is right.
            others = truth.scores[query][truth.ids[query] != own[query]][:MEASURED_K]
            others = others[np.isfinite(others)]
            found = hits.scores[0][(hits.ids[0] != own[query]) & np.isfinite(hits.scores[0])]
            right = (found >= others[-1] - TIE).sum() if len(others) else 0
            overlaps.append(min(1.0, right / max(1, len(others))) if len(others) else 1.0)
        recall = float(np.mean(overlaps))
        if recall >= RECALL_TARGET or not 0 < index.effort < index.lists:
            return round(recall, 4), round(float(np.median(latencies)) * 1000, 4)
        index.effort *= 2


def _load_npy(path: Path, dtype: type, shape: tuple[int, ...]) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise Missing(f"{path} is missing", path.name) from error
    except (ValueError, OSError) as error:
        raise Damaged(f"{path} is not a whole array ({error})", path.name) from error
    if array.dtype != dtype or array.shape != shape:
        raise Damaged(
            f"{path} holds {array.dtype}{list(array.shape)}, expected {np.dtype(dtype)}{list(shape)}", path.name
        )
    return array
