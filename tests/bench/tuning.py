"""The tuned index compared with a full grid of FAISS indexes, hnswlib, usearch and autofaiss, at the same recall.

Two sets of vectors (see `vectors`): `low`, 300,000 of 256 values, and `wide`, 1,000,000 of 64. Every index gets one
query at a time on one thread, through its own Python interface, at the smallest effort with which it finds 0.95 of the
ten nearest rows of 1,000 queries that were not used before. The grid contains every index that the tuner may choose,
built on all rows and searched through the same class, at every effort. The winners are then timed again in turns, and
the ratios are those of the medians. autofaiss chooses by a table; hnswlib and usearch have their usual sizes, M 16 and
32.

Takes most of an hour. `--set low` or `--set wide` runs one set; the results keep the figures of the other.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import faiss
import hnswlib
import numpy as np
from report import RESULTS, report
from rich.console import Console
from usearch.index import Index as Usearch
from vectors import mixture

from index import tuning
from index.exact_index import ExactIndex
from index.faiss_index import FaissIndex, SearchEffort
from index.index_types import candidate_factories, refine_factors
from index.recall_measurement import K, QuerySet
from index.space import Space
from index.threads import limit_threads, one_thread
from index.tuning import tune

SEED = 0
QUERIES = 1000
TARGET = 0.95
ROUNDS = 5
SETS = {"low": (300_000, 256), "wide": (1_000_000, 64)}
CORES = 2
Search = Callable[[Any], Any]  # from a query [1, dim] to the indices of its nearest rows

out = Console()


@dataclass
class Contender:
    """An index, with the smallest effort that meets the target."""

    name: str
    search: Search
    recall: float
    seconds: float
    bytes_per_vector: float = 0.0
    rounds: list[float] = field(default_factory=list)


class Trial:
    """One set of vectors with its queries and their true neighbours."""

    def __init__(self, rows: int, dim: int) -> None:
        every = mixture(rows + QUERIES, dim, SEED)
        self.vectors, self.queries = every[:rows], every[rows:]
        numbers = np.arange(rows, dtype=np.int32)
        self.exact = ExactIndex(Space("bench", dim, ""), self.vectors, numbers, numbers, rows)
        self.truth = self.exact.search(self.queries, K).items

    def measure(self, search: Search, queries: int = QUERIES) -> tuple[float, float]:
        """Return recall@10 and the median seconds of a query."""
        seconds, found = np.empty(queries), np.empty(queries)
        search(self.queries[:1])
        with one_thread():
            for number in range(queries):
                query = self.queries[number : number + 1]
                started = time.perf_counter()
                ids = search(query)
                seconds[number] = time.perf_counter() - started
                found[number] = len(np.intersect1d(np.asarray(ids).ravel()[:K], self.truth[number]))
        return float(found.mean()) / K, float(np.median(seconds))

    def least(self, name: str, efforts: list[tuple[Any, Search]], prepare: Callable[[Any], None]) -> Contender | None:
        """Return the first of increasing efforts that meets the target; None if none does."""
        for effort, search in efforts:
            prepare(effort)
            recall, seconds = self.measure(search)
            if recall >= TARGET:
                out.print(f"  {name:<28} at {effort!s:<10} recall {recall:.4f}  {1e6 * seconds:6.0f} µs")
                return Contender(f"{name} at {effort}", search, recall, seconds)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=SETS, action="append", dest="sets")
    chosen = parser.parse_args().sets or list(SETS)
    path = RESULTS / "tuning.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    figures = {key: value for key, value in before.items() if key.split("_")[0] in set(SETS) - set(chosen)}
    for name in chosen:
        figures |= {f"{name}_{key}": value for key, value in run(name).items()}
    report("tuning", figures, SEED, ("faiss-cpu", "hnswlib", "usearch", "autofaiss"))


def run(name: str) -> dict[str, float | int | str | None]:
    """Return the figures of one set of vectors."""
    limit_threads(CORES)
    rows, dim = SETS[name]
    out.rule(f"{name}: {rows:,} x {dim}")
    trial = Trial(rows, dim)
    started = time.perf_counter()
    tuned = tune(trial.vectors, TARGET, progress=lambda done, total: out.print(f"  tuning {done}/{total}", end="\r"))
    tuning_s = time.perf_counter() - started
    index = _index(trial, tuned.factory, tuned.raw)
    index.efforts = tuned.efforts
    recall, seconds = trial.measure(lambda query: index.search(query, K).items)
    ours = Contender(f"tuned {tuned.factory}", lambda query: index.search(query, K).items, recall, seconds)
    out.print(
        f"  tuned in {tuning_s:.0f} s: {tuned.factory} {tuned.efforts[:1]} recall {recall:.4f} {1e6 * seconds:.0f} µs"
    )
    grid = best_of_grid(trial)
    peers = [peer for peer in (*_hnswlib(trial), *_usearch(trial), _autofaiss(trial)) if peer is not None]
    finalists = [ours, grid, *peers]
    for _ in range(ROUNDS):
        for each in finalists:
            each.rounds.append(trial.measure(each.search)[1])
    speeds = {each.name: 1 / statistics.median(each.rounds) for each in finalists}
    for each in finalists:
        out.print(f"  {each.name:<34} {speeds[each.name]:8.0f} queries/s, recall {each.recall:.4f}")
    best_peer = max(peers, key=lambda peer: speeds[peer.name])
    return {
        "recall10": round(recall, 4),
        "qps": round(speeds[ours.name]),
        "qps_over_grid_best": round(speeds[ours.name] / max(speeds[grid.name], speeds[ours.name]), 3),
        "qps_over_best_peer": round(speeds[ours.name] / speeds[best_peer.name], 3),
        "bytes_per_vector": tuned.bytes_per_vector,
        "factory": tuned.factory,
        "probe": tuned.efforts[0].probe if tuned.efforts else 0,
        "refine": tuned.efforts[0].refine if tuned.efforts else 0,
        "grid_best": grid.name,
        "best_peer": best_peer.name,
        "tuning_s": round(tuning_s),
        **{f"qps_{peer.name.split()[0]}": round(speeds[peer.name]) for peer in peers},
    }


def best_of_grid(trial: Trial) -> Contender:
    """Return the fastest of all indexes that the tuner may choose, over all efforts that meet the target."""
    best: Contender | None = None
    rows, dim = trial.vectors.shape
    grid = tuning._Tuner(trial.vectors, TARGET, None, QuerySet.from_rows(trial.vectors, tuning.MAX_QUERIES), None)
    for factory in candidate_factories(rows, dim, tuning.projected_sizes(trial.vectors)):
        if factory == "Flat":
            continue
        built = grid.build(factory, trial.vectors)
        index: Any = built.index
        for refine in refine_factors(factory):
            for probe in tuning._probes(built):
                index.efforts = (SearchEffort(tuning.REACH, probe, refine),)
                recall, seconds = trial.measure(lambda query, index=index: index.search(query, K).items)
                if recall < TARGET:
                    continue
                out.print(
                    f"  {factory:<28} probe {probe:<4} refine {refine:<3} recall {recall:.4f} {1e6 * seconds:6.0f} µs, "
                    f"{built.bytes_per_vector:.0f} B  built in {built.seconds:.0f} s"
                )
                if best is None or seconds < best.seconds:
                    efforts = index.efforts

                    def search(query: Any, index: Any = index, efforts: Any = efforts) -> Any:
                        index.efforts = efforts
                        return index.search(query, K).items

                    best = Contender(f"grid {factory} {probe}/{refine}", search, recall, seconds)
                break
    assert best is not None
    return best


def _index(trial: Trial, factory: str, raw: Any) -> Any:
    numbers = np.arange(len(trial.vectors), dtype=np.int32)
    if raw is None:
        return trial.exact
    return FaissIndex(trial.exact.space, factory, raw, trial.vectors, numbers, numbers, len(numbers), ())


def _hnswlib(trial: Trial) -> list[Contender | None]:
    found = []
    for links in (16, 32):
        index = hnswlib.Index("ip", trial.vectors.shape[1])
        index.init_index(len(trial.vectors), ef_construction=200, M=links)
        index.set_num_threads(CORES)
        index.add_items(trial.vectors)
        index.set_num_threads(1)

        def search(query: Any, index: Any = index) -> Any:
            return index.knn_query(query, K)[0]

        found.append(trial.least(f"hnswlib-M{links}", [(ef, search) for ef in (10, *range(12, 200, 4))], index.set_ef))
    return found


def _usearch(trial: Trial) -> list[Contender | None]:
    found = []
    for links in (16, 32):
        index = Usearch(ndim=trial.vectors.shape[1], metric="ip", connectivity=links, expansion_add=200)
        index.add(np.arange(len(trial.vectors)), trial.vectors, threads=CORES)

        def search(query: Any, index: Any = index) -> Any:
            return index.search(query[0], K, threads=1).keys

        def prepare(ef: int, index: Any = index) -> None:
            index.expansion_search = ef

        found.append(trial.least(f"usearch-M{links}", [(ef, search) for ef in (10, *range(12, 200, 4))], prepare))
    return found


def _autofaiss(trial: Trial) -> Contender | None:
    """Return the index that autofaiss chooses for twice the memory of the vectors, at the effort for our target."""
    import autofaiss

    index, _ = autofaiss.build_index(
        trial.vectors,
        save_on_disk=False,
        metric_type="ip",
        max_index_memory_usage="2GB",
        current_memory_available="8GB",
        nb_cores=CORES,
        verbose=30,
    )
    inverted = faiss.try_extract_index_ivf(index)

    def search(query: Any) -> Any:
        return index.search(query, K)[1]

    def prepare(effort: int) -> None:
        faiss.ParameterSpace().set_index_parameter(index, "nprobe" if inverted is not None else "efSearch", effort)

    efforts = tuning.PROBES if inverted is not None else (10, *range(12, 200, 4))
    return trial.least(f"autofaiss-{type(index).__name__}", [(effort, search) for effort in efforts], prepare)


if __name__ == "__main__":
    main()
