"""Filtered search compared with unfiltered search, on 300,000 rows of 256 values (see `vectors`), in the tuned index.

Filters allow 50 %, 5 %, 0.5 % and 0.05 % of the rows, in two ways: `random`, which is independent of the vectors, and
`clustered`, whole clusters as categories are, so that most queries are far from all allowed rows. Recall is relative to
exact search under the same filter, for 500 queries that are not rows. A filter is compiled once, as in the service; its
first use is not part of the latency but reported as `compile_ms`. Filtered and unfiltered queries are timed in turns,
one at a time on one thread; the ratio is that of the medians.
"""

import statistics
import time
from typing import Any

import numpy as np
from report import report
from rich.console import Console
from vectors import mixture

from index.exact_index import ExactIndex
from index.faiss_index import FaissIndex
from index.item_mask import ItemMask
from index.recall_measurement import K
from index.space import Space
from index.threads import limit_threads, one_thread
from index.tuning import tune

SEED = 0
ROWS, DIM, QUERIES = 300_000, 256, 500
SHARES = (0.5, 0.05, 0.005, 0.0005)
ROUNDS = 3
CORES = 2

out = Console()


def main() -> None:
    limit_threads(CORES)
    every = mixture(ROWS + QUERIES, DIM, SEED)
    vectors, queries = every[:ROWS], every[ROWS:]
    out.print(f"{ROWS:,} x {DIM}: tuning")
    tuned = tune(vectors, progress=lambda done, total: out.print(f"  {done}/{total}", end="\r"))
    numbers = np.arange(ROWS, dtype=np.int32)
    space = Space("bench", DIM, "")
    exact = ExactIndex(space, vectors, numbers, numbers, ROWS)
    index: Any = FaissIndex(space, tuned.factory, tuned.raw, vectors, numbers, numbers, ROWS, tuned.efforts)
    for effort in tuned.efforts:
        out.print(f"  {effort}")
    selections = {(kind, share): ItemMask(mask(kind, share, vectors)) for kind in KINDS for share in SHARES}
    figures: dict[str, float | int | str | None] = {"factory": tuned.factory}
    recalls, full, compiled = {}, {}, {}
    for named, selection in selections.items():
        started = time.perf_counter()
        index.search(queries[:1], K, selection)
        compiled[named] = 1000 * (time.perf_counter() - started)
        truth = exact.search(queries, K, selection)
        found = index.search(queries, K, selection)
        full[named] = bool((found.counts == min(K, selection.count)).all())
        shares = [len(np.intersect1d(a, b)) / K for a, b in zip(found.items, truth.items, strict=True)]
        recalls[named] = float(np.mean(shares))
    seconds: dict[Any, list[float]] = {}
    with one_thread():
        for _ in range(ROUNDS):
            for named, selection in [("unfiltered", None), *selections.items()]:
                seconds.setdefault(named, []).append(median_seconds(index, queries, selection))
    plain = statistics.median(seconds["unfiltered"])
    out.print(f"  unfiltered {1e6 * plain:.0f} µs")
    for named, selection in selections.items():
        kind, share = named
        took = statistics.median(seconds[named])
        out.print(
            f"  {kind:<9} {share:8.2%} {selection.count:>8,} allowed  recall {recalls[named]:.4f}  "
            f"{1e6 * took:6.0f} µs = {took / plain:4.2f} times  full {full[named]}  first use {compiled[named]:.1f} ms"
        )
        figures[f"{kind}_{share:g}_over_unfiltered"] = round(took / plain, 3)
        figures[f"{kind}_{share:g}_recall10"] = round(recalls[named], 4)
    figures |= {
        "unfiltered_us": round(1e6 * plain),
        "min_recall10": round(min(recalls.values()), 4),
        "always_full": all(full.values()),
        "slowest_over_unfiltered": round(max(statistics.median(seconds[named]) for named in selections) / plain, 3),
        "compile_ms": round(max(compiled.values()), 1),
    }
    report("filters", figures, SEED, ("faiss-cpu",))


def mask(kind: str, share: float, vectors: Any) -> Any:
    """Return which rows are allowed: random rows, or the rows nearest to a few points, as whole categories are."""
    generator = np.random.default_rng([SEED, int(share * 10_000)])
    if kind == "random":
        return generator.random(len(vectors)) < share
    allowed = np.zeros(len(vectors), np.bool_)
    while allowed.sum() < share * len(vectors):
        centre = vectors[int(generator.integers(len(vectors)))]
        wanted = min(int(share * len(vectors)) - int(allowed.sum()), max(150, len(vectors) // 100))
        allowed[np.argpartition(-(vectors @ centre), max(1, wanted))[: max(1, wanted)]] = True
    return allowed


KINDS = ("random", "clustered")


def median_seconds(index: Any, queries: Any, selection: ItemMask | None) -> float:
    """Return the median seconds of a query, one query at a time."""
    seconds = []
    for number in range(len(queries)):
        started = time.perf_counter()
        index.search(queries[number : number + 1], K, selection)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
