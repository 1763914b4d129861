"""An index as a folder of files: built and measured there, described by `space.json`, opened memory-mapped."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from index.array_file import load_array
from index.atomic_file import replacing
from index.errors import IndexDamaged, IndexMissing, InvalidQuery
from index.exact_index import ExactIndex
from index.faiss_files import read_index, write_index
from index.faiss_index import FaissIndex, SearchEffort
from index.progress import Progress
from index.protocol import VectorIndex
from index.space import Owners, Space, Vectors, normalize_rows
from index.threads import one_thread
from index.top_k import TIE
from index.tuning import TunedIndex, TuningPoint, retune, tune

MAX_QUERIES = 256  # used to measure recall and latency
MEASURED_K = 10
MAX_GROWTH = 2.0  # an earlier choice of index is reused up to this factor in the number of rows, up or down
BLOCK_ROWS = 1 << 14  # copied at once
SAMPLE_ROWS = 256  # rows that represent all rows when scores of several spaces are made comparable


@dataclass(frozen=True)
class IndexReport:
    """What an index is and how it was measured; also the content of `space.json`.

    Attributes:
        space: The space of the index.
        factory: Its FAISS factory string, `Flat` for exact search, or `milvus:` and Milvus's index type.
        efforts: Search efforts, by ascending reach.
        rows: The number of rows.
        items: The number of items.
        rejected: The number of rows dropped because they were NaN, zero or infinite.
        recall10: Recall@10 against exact search, with rows of the index as queries, without the query's own item.
        latency_ms: The median of one query at a time on one thread, in ms.
        bytes: The size on disk, in bytes.
        bytes_per_vector: What a search keeps in memory for each row, in bytes.
        build_s: The time of the build, in seconds.
        recall_target: The recall@10 that the tuning had to reach.
        tuned_rows: The number of rows that the tuning measured.
        curve: The measurements of the tuning.
        note: Why this index was chosen.
        uri: The address of the engine that holds the rows; empty if they are in the folder.
        collection: The collection on that engine.
    """

    space: Space
    factory: str
    efforts: tuple[SearchEffort, ...]
    rows: int
    items: int
    rejected: int
    recall10: float
    latency_ms: float
    bytes: int
    bytes_per_vector: float
    build_s: float
    recall_target: float
    tuned_rows: int
    curve: tuple[TuningPoint, ...]
    note: str
    uri: str = ""
    collection: str = ""


@dataclass(frozen=True)
class MilvusTarget:
    """A new Milvus collection that is to hold an index, with the columns that filters may use."""

    uri: str
    collection: str
    columns: Any  # a pyarrow.Table with a row for each item


def build_index(
    folder: Path,
    space: Space,
    owners: Owners,
    labels: Owners,
    items: int,
    fill: Callable[[Vectors], None],
    recall_target: float = 0.95,
    memory_budget: int | None = None,
    earlier: IndexReport | None = None,
    target: MilvusTarget | None = None,
    progress: Progress | None = None,
    queries: Vectors | None = None,
) -> IndexReport:
    """Build the fastest index that reaches the recall target, and measure it.

    Args:
        folder: Where to build it; created here.
        space: The space of the rows.
        owners: The item index of each row, [n], never decreasing, each below `items`.
        labels: A number of the caller for each row, [n], stored with the rows.
        items: The number of items.
        fill: Writes the rows into an array [n, dim], which lies on disk.
        recall_target: The recall@10 to reach.
        memory_budget: The memory that a search may use, in bytes; None for no limit.
        earlier: The report of an earlier build. Its choice of index is reused if its space and recall target are the
            same and its number of rows is similar.
        target: Where to store the rows; if None, in the folder. With a target the folder holds only the description.
        progress: Called with the tuning's steps done and in total.
        queries: Real queries [q, dim] to choose and measure the index with, if queries differ from rows. Otherwise
            rows search for their neighbours.

    Raises:
        InvalidQuery: `owners` is invalid, or no index reaches the target within `memory_budget`.
    """
    started = time.perf_counter()
    if len(owners) and ((np.diff(owners) < 0).any() or owners[0] < 0 or owners[-1] >= items):
        raise InvalidQuery(f"owners must not decrease and must be in 0..{items - 1}", "owners")
    folder.mkdir(parents=True)
    path = folder / "vectors.npy"
    vectors: Vectors = np.lib.format.open_memmap(path, "w+", np.float32, (len(owners), space.dim))
    if len(owners):
        fill(vectors)
    vectors, valid = _drop_invalid_rows(path, vectors)
    vectors = vectors.view(np.ndarray)
    owners, labels = owners[valid], labels[valid]
    np.save(folder / "owners.npy", owners, allow_pickle=False)
    np.save(folder / "labels.npy", labels, allow_pickle=False)

    exact = ExactIndex(space, vectors, owners, labels, items)
    index: VectorIndex = exact
    if target is not None:
        from index.milvus_index import build_collection

        index = build_collection(target.uri, target.collection, space, owners, labels, items, vectors, target.columns)
        tuned = TunedIndex(index.factory, None, (), 0.0, 0.0, 4.0 * space.dim, (), "Milvus: measured, not tuned")
        tuned_rows = 0
    else:
        tuned, tuned_rows = _tune(vectors, space, recall_target, memory_budget, earlier, progress, queries)
        if tuned.raw is not None:
            write_index(tuned.raw, folder / "index.faiss")
            index = FaissIndex(space, tuned.factory, tuned.raw, vectors, owners, labels, items, tuned.efforts)
    recall, latency = _measure(index, exact, recall_target, queries)
    if target is not None:
        for path in folder.iterdir():
            path.unlink()
    chosen = np.sort(np.random.default_rng(0).permutation(len(vectors))[:SAMPLE_ROWS])
    np.save(folder / "sample.npy", vectors[chosen], allow_pickle=False)
    report = IndexReport(
        space=space,
        factory=tuned.factory,
        efforts=index.efforts if isinstance(index, FaissIndex) else (),
        rows=len(owners),
        items=items,
        rejected=int((~valid).sum()),
        recall10=recall,
        latency_ms=latency,
        bytes=sum(file.stat().st_size for file in folder.iterdir()),
        bytes_per_vector=tuned.bytes_per_vector,
        build_s=round(time.perf_counter() - started, 3),
        recall_target=recall_target,
        tuned_rows=tuned_rows,
        curve=tuned.curve,
        note=tuned.note,
        uri=target.uri if target else "",
        collection=target.collection if target else "",
    )
    (folder / "space.json").write_bytes(orjson.dumps(asdict(report), option=orjson.OPT_INDENT_2))
    return report


def open_index(folder: Path) -> VectorIndex:
    """Memory-map the index in `folder`, or connect to its engine; raises IndexMissing or IndexDamaged."""
    report = read_report(folder)
    if report.collection:
        from index.milvus_index import open_collection

        return open_collection(report.uri, report.collection, report.space, report.items, report.rows)
    owners = load_array(folder / "owners.npy", np.int32, (report.rows,))
    if len(owners) and (owners[0] < 0 or owners[-1] >= report.items or (np.diff(owners) < 0).any()):
        raise IndexDamaged(f"{folder / 'owners.npy'} has item indices outside 0..{report.items - 1}", "owners.npy")
    labels = load_array(folder / "labels.npy", np.int32, (report.rows,))
    vectors = load_array(folder / "vectors.npy", np.float32, (report.rows, report.space.dim))
    if report.factory == "Flat":
        return ExactIndex(report.space, vectors, owners, labels, report.items)
    raw = read_index(folder / "index.faiss", report.rows, report.space.dim)
    return FaissIndex(report.space, report.factory, raw, vectors, owners, labels, report.items, report.efforts)


def open_sample(folder: Path) -> Vectors:
    """Memory-map random rows of the index in `folder`, [at most SAMPLE_ROWS, dim]; raises as `open_index` does.

    The sample has a file of its own, as reading scattered rows would load half of the index into memory.
    """
    report = read_report(folder)
    sample: Vectors = load_array(folder / "sample.npy", np.float32, (min(SAMPLE_ROWS, report.rows), report.space.dim))
    return sample


def read_report(folder: Path) -> IndexReport:
    """Read `space.json` of the index in `folder`; raises IndexMissing or IndexDamaged."""
    path = folder / "space.json"
    try:
        content = orjson.loads(path.read_bytes())
        efforts = tuple(SearchEffort(**effort) for effort in content["efforts"])
        curve = tuple(TuningPoint(**point) for point in content["curve"])
        return IndexReport(**{**content, "space": Space(**content["space"]), "efforts": efforts, "curve": curve})
    except FileNotFoundError as error:
        raise IndexMissing(f"there is no index in {folder}: {path.name} is missing", path.name) from error
    except (ValueError, TypeError, KeyError) as error:
        raise IndexDamaged(f"{path} does not describe an index ({error})", path.name) from error


def _tune(
    vectors: Vectors,
    space: Space,
    target: float,
    budget: int | None,
    earlier: IndexReport | None,
    progress: Progress | None,
    queries: Vectors | None,
) -> tuple[TunedIndex, int]:
    """Reuse the earlier choice of index or tune anew; the arguments are those of `build_index`.

    Returns:
        The index, and the number of rows that it was chosen with.
    """
    if (
        earlier is not None
        and (earlier.space, earlier.recall_target) == (space, target)
        and earlier.curve
        and earlier.tuned_rows / MAX_GROWTH <= len(vectors) <= earlier.tuned_rows * MAX_GROWTH
    ):
        tuned = retune(vectors, earlier.factory, target, budget, queries)
        if tuned is not None:
            return replace(tuned, curve=earlier.curve), earlier.tuned_rows
    return tune(vectors, target, budget, queries, progress), len(vectors)


def _drop_invalid_rows(path: Path, vectors: Vectors) -> tuple[Vectors, NDArray[np.bool_]]:
    """Normalise the rows on disk block by block and rewrite the file without rows that have no direction."""
    valid = np.ones(len(vectors), dtype=np.bool_)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        rows, valid[block] = normalize_rows(vectors[block])
        vectors[block][valid[block]] = rows
    if valid.all():
        return vectors, valid
    positions = np.flatnonzero(valid)
    with replacing(path) as temporary:
        remaining: Vectors = np.lib.format.open_memmap(temporary, "w+", np.float32, (len(positions), vectors.shape[1]))
        for start in range(0, len(positions), BLOCK_ROWS):
            remaining[start : start + BLOCK_ROWS] = vectors[positions[start : start + BLOCK_ROWS]]
    return remaining, valid


def _measure(index: VectorIndex, exact: ExactIndex, target: float, real_queries: Vectors | None) -> tuple[float, float]:
    """Measure recall@10 by item and median latency in ms.

    Raises the effort of a FAISS index until it reaches the target: items with several rows need more effort than the
    rows that the tuning measured.
    """
    if len(exact.vectors) < 2:
        return 1.0, 0.0
    pool = exact.vectors if real_queries is None else real_queries
    chosen = np.sort(np.random.default_rng(5).choice(len(pool), min(MAX_QUERIES, len(pool)), replace=False))
    queries = np.ascontiguousarray(pool[chosen])
    own = exact.owners[chosen] if real_queries is None else np.full(len(chosen), -1)
    truth = exact.search(queries, MEASURED_K + 1)
    while True:
        latencies, recalls = [], []
        with one_thread():
            for query in range(len(queries)):
                started = time.perf_counter()
                results = index.search(queries[query : query + 1], MEASURED_K + 1)
                latencies.append(time.perf_counter() - started)
                expected = truth.scores[query][truth.items[query] != own[query]][:MEASURED_K]
                expected = expected[np.isfinite(expected)]
                if len(expected):
                    # By score, not by item: of items that tie for the last position, any is right.
                    scores = results.scores[0][results.items[0] != own[query]]
                    right = float((scores >= expected.min() - 2 * TIE).sum())
                    recalls.append(min(1.0, right / len(expected)))
        recall = float(np.mean(recalls)) if recalls else 1.0
        if recall >= target or not isinstance(index, FaissIndex) or not index.raise_effort():
            return round(recall, 4), round(float(np.median(latencies)) * 1000, 4)
