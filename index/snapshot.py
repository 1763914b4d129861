"""An index as a folder of files: built there, measured, described by `space.json`, opened memory-mapped."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from index import faiss_index
from index.array_file import load_array
from index.errors import BadQuery, Damaged, Missing
from index.exact import TIE, ExactIndex
from index.faiss_index import Effort, FaissIndex
from index.protocol import VectorIndex
from index.space import Owners, Space, Vectors, sound_rows
from index.threads import one_thread
from index.tuning import Point, Tuned, retune, tune

QUERIES = 256  # that recall and latency are measured with
MEASURED_K = 10
ALIKE = 2.0  # times as many rows, or as few, up to which an earlier choice of index is taken over
BLOCK = 1 << 14  # rows copied at once
SAMPLE = 256  # rows that stand for all where scores of several spaces are made comparable


@dataclass(frozen=True)
class IndexReport:
    """What an index is and how it measured; also what `space.json` holds.

    `recall10` is against exact search, with rows of the index as queries and the query's own item left out.
    `latency_ms` is the median of one query at a time on one thread. `bytes_per_vector` is what a search keeps in
    memory, `bytes` all that lies on disk. `rejected` rows were NaN, zero or infinite. `curve` is what the tuning
    measured, on `tuned_rows` rows, to meet `recall_target`. `uri` and `collection` say where the rows are, where an
    engine of its own has them.
    """

    space: Space
    factory: str
    efforts: tuple[Effort, ...]
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
    curve: tuple[Point, ...]
    note: str
    uri: str = ""
    collection: str = ""


@dataclass(frozen=True)
class Target:
    """A new Milvus collection that is to hold an index, with the columns that filters may speak of."""

    uri: str
    collection: str
    columns: Any  # a pyarrow.Table with a row for each item


def build(
    folder: Path,
    space: Space,
    owners: Owners,
    labels: Owners,
    items: int,
    fill: Callable[[Vectors], None],
    recall_target: float = 0.95,
    memory_budget: int | None = None,
    earlier: IndexReport | None = None,
    target: Target | None = None,
    progress: Callable[[int, int], None] | None = None,
    queries: Vectors | None = None,
) -> IndexReport:
    """Build the index of `space` in `folder` (made here), the fastest that meets the target, and measure it.

    `owners` [n] is the item number of each row, never decreasing, each below `items`; `labels` [n] are kept with the
    rows; `fill` writes the rows into an array [n, dim], which lies on disk. The choice of an `earlier` build is taken
    over where that was of the same space, recall target and about as many rows. With a `target` the rows go there, and
    only what describes them stays in the folder. `queries` [q, dim] are real ones to choose and measure by, where they
    are of another kind than the rows; otherwise rows look for their neighbours. Raises BadQuery where the owners do not
    fit, and where no index meets the target inside `memory_budget` bytes.
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
    vectors = vectors.view(np.ndarray)
    owners, labels = owners[kept], labels[kept]
    np.save(folder / "owners.npy", owners, allow_pickle=False)
    np.save(folder / "labels.npy", labels, allow_pickle=False)

    exact = ExactIndex(space, vectors, owners, labels, items)
    index: VectorIndex = exact
    if target is not None:
        from index import milvus_index

        index = milvus_index.build(target.uri, target.collection, space, owners, labels, items, vectors, target.columns)
        tuned = Tuned(index.factory, None, (), 0.0, 0.0, 4.0 * space.dim, (), "Milvus: measured, not tuned")
        tuned_rows = 0
    else:
        tuned, tuned_rows = _tuned(vectors, space, recall_target, memory_budget, earlier, progress, queries)
        if tuned.raw is not None:
            faiss_index.write(tuned.raw, folder / "index.faiss")
            index = FaissIndex(space, tuned.factory, tuned.raw, vectors, owners, labels, items, tuned.efforts)
    recall, latency = _reach_recall(index, exact, recall_target, queries)
    if target is not None:
        for path in folder.iterdir():
            path.unlink()
    chosen = np.sort(np.random.default_rng(0).permutation(len(vectors))[:SAMPLE])
    np.save(folder / "sample.npy", vectors[chosen], allow_pickle=False)
    report = IndexReport(
        space=space,
        factory=tuned.factory,
        efforts=index.efforts if isinstance(index, FaissIndex) else (),
        rows=len(owners),
        items=items,
        rejected=int((~kept).sum()),
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
    """Memory-map the index in `folder`, or connect to where it is; raises Missing or Damaged with the file's name."""
    described = read_report(folder)
    if described.collection:
        from index import milvus_index

        return milvus_index.open_collection(
            described.uri, described.collection, described.space, described.items, described.rows
        )
    owners = load_array(folder / "owners.npy", np.int32, (described.rows,))
    if len(owners) and (owners[0] < 0 or owners[-1] >= described.items or (np.diff(owners) < 0).any()):
        raise Damaged(f"{folder / 'owners.npy'} names items outside 0..{described.items - 1}", "owners.npy")
    labels = load_array(folder / "labels.npy", np.int32, (described.rows,))
    vectors = load_array(folder / "vectors.npy", np.float32, (described.rows, described.space.dim))
    if described.factory == "Flat":
        return ExactIndex(described.space, vectors, owners, labels, described.items)
    raw = faiss_index.read(folder / "index.faiss", described.rows, described.space.dim)
    return FaissIndex(
        described.space, described.factory, raw, vectors, owners, labels, described.items, described.efforts
    )


def open_sample(folder: Path) -> Vectors:
    """Rows that were drawn from the index in `folder` at random, [at most SAMPLE, dim]; raises as `open_index` does.

    A file of their own, as reading them here and there would draw half of the index into memory.
    """
    described = read_report(folder)
    sample: Vectors = load_array(folder / "sample.npy", np.float32, (min(SAMPLE, described.rows), described.space.dim))
    return sample


def read_report(folder: Path) -> IndexReport:
    """What `space.json` says of the index in `folder`."""
    path = folder / "space.json"
    try:
        described = orjson.loads(path.read_bytes())
        efforts = tuple(Effort(**effort) for effort in described["efforts"])
        curve = tuple(Point(**point) for point in described["curve"])
        return IndexReport(**{**described, "space": Space(**described["space"]), "efforts": efforts, "curve": curve})
    except FileNotFoundError as error:
        raise Missing(f"there is no index in {folder}: {path.name} is missing", path.name) from error
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{path} does not describe an index ({error})", path.name) from error


def _tuned(
    vectors: Vectors,
    space: Space,
    target: float,
    budget: int | None,
    earlier: IndexReport | None,
    progress: Callable[[int, int], None] | None,
    queries: Vectors | None,
) -> tuple[Tuned, int]:
    """The index for these vectors, and on how many rows it was chosen."""
    if (
        earlier is not None
        and (earlier.space, earlier.recall_target) == (space, target)
        and earlier.curve
        and earlier.tuned_rows / ALIKE <= len(vectors) <= earlier.tuned_rows * ALIKE
    ):
        again = retune(vectors, earlier.factory, target, budget, queries)
        if again is not None:
            return replace(again, curve=earlier.curve), earlier.tuned_rows
    return tune(vectors, target, budget, queries, progress), len(vectors)


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


def _reach_recall(index: VectorIndex, exact: ExactIndex, target: float, real: Vectors | None) -> tuple[float, float]:
    """Recall@10 by item and median latency in ms; effort rises where items of several rows need more than rows do."""
    if len(exact.vectors) < 2:
        return 1.0, 0.0
    pool = exact.vectors if real is None else real
    chosen = np.sort(np.random.default_rng(5).choice(len(pool), min(QUERIES, len(pool)), replace=False))
    queries = np.ascontiguousarray(pool[chosen])
    own = exact.owners[chosen] if real is None else np.full(len(chosen), -1)
    truth = exact.search(queries, MEASURED_K + 1)
    while True:
        latencies, recalls = [], []
        with one_thread():
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
        if recall >= target or not isinstance(index, FaissIndex) or not index.raise_effort():
            return round(recall, 4), round(float(np.median(latencies)) * 1000, 4)
