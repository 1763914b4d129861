"""Tuning: which index is fastest at the recall asked for, inside the memory given, found by measuring.

Every family is built on a sample first and its effort raised until the best ten are found often enough; those that
come near the fastest there, reckoned up to the full size, are built on everything and measured again. What was
measured on the way is the curve. Recall is of queries that took no part in choosing the effort.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import faiss_index
from index.errors import BadQuery
from index.exact import TIE, ExactIndex
from index.faiss_index import Effort, FaissIndex
from index.index_types import body, bytes_a_vector, candidates, refines, scaled, split
from index.selection import Selection
from index.space import Space, Vectors
from index.threads import one_thread

FLAT_BELOW = 4_000  # rows up to which scanning all takes a fraction of a millisecond, so that nothing is measured
SAMPLE = 50_000  # rows that every family is tried on
NEAR = 1.6  # times the best reckoned time up to which a family is built on everything,
NEAR_OF_ONE_SPLIT = 2.0  # or, as k-means is what costs, one that splits the space like one of these
SPLITS = 2
QUERIES = 1000  # half of them choose the effort, half of them prove it
K = 10
PROBES = (*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), 40, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
WIDTHS = (*range(10, 17, 2), *range(20, 33, 4), 40, 48, 64, 96, 128, 192, 256, 384, 512)  # of HNSW's search
SHARES = (0.5, 0.2, 0.05, 0.01)  # of the rows allowed, beside all
GATHERED = 5  # points that rows are allowed around, where they are not just any
REFINES = (1, 1.5, 2, 3, 5, 10, 20)
CLOSE = 1.2  # times the best time up to which indexes are timed again, in turns
ROUNDS = 3
STALLED = 0.001  # recall that the next effort has to add
REACH = K + 1.0  # the query's own row is found too
HELD = (0.9, 0.97)  # shares of what rows have that a projection may keep,
NARROWED = 0.8  # where that takes at most this share of their values
MARGIN = 0.002  # recall above the target that effort is raised to: other queries may find a little less

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Point:
    """One measurement: what it cost to reach so much recall@10, on so many `rows`, one thread, one query at a time."""

    factory: str
    probe: int
    refine: float
    rows: int
    recall10: float
    queries_per_s: float
    bytes_per_vector: float
    build_s: float


@dataclass(frozen=True)
class Tuned:
    """The chosen index: `raw` is FAISS's, None for Flat; `recall10` and `queries_per_s` are of held-out queries."""

    factory: str
    raw: Any
    efforts: tuple[Effort, ...]
    recall10: float
    queries_per_s: float
    bytes_per_vector: float
    curve: tuple[Point, ...]
    note: str


def tune(
    vectors: Vectors,
    recall_target: float = 0.95,
    memory_budget: int | None = None,
    queries: Vectors | None = None,
    progress: Progress | None = None,
) -> Tuned:
    """Choose the fastest index over unit rows [n, dim] that finds `recall_target` of the true ten best.

    `memory_budget` is in bytes, of what a search holds in memory: the index, not the vectors on disk that it reads a
    few rows of. `queries` [q, dim] are real ones where there are any; otherwise rows of the index stand for them,
    each looking for its neighbours. Raises BadQuery where nothing inside the budget reaches the target, with what
    would.
    """
    if not 0 < recall_target <= 1:
        raise BadQuery(f"recall_target is {recall_target}: give a share above 0, up to 1", "recall_target")
    rows, dim = vectors.shape
    if rows < FLAT_BELOW and (memory_budget is None or rows * dim * 4 <= memory_budget):
        note = f"Flat: below {FLAT_BELOW:,} rows scanning all of them is fast, and exact"
        return Tuned("Flat", None, (), 1.0, 0.0, 4.0 * dim, (), note)
    asked = _Queries.rows_of(vectors) if queries is None else _Queries(queries, None)
    return _Trial(vectors, recall_target, memory_budget, asked, progress).run()


def retune(
    vectors: Vectors,
    factory: str,
    recall_target: float = 0.95,
    memory_budget: int | None = None,
    queries: Vectors | None = None,
) -> Tuned | None:
    """The index of a `factory` that was chosen before, its efforts measured anew; None where it no longer serves."""
    asked = _Queries.rows_of(vectors) if queries is None else _Queries(queries, None)
    trial = _Trial(vectors, recall_target, memory_budget, asked, None)
    built = trial.build(factory, vectors)
    if memory_budget is not None and built.bytes_per_vector * len(vectors) > memory_budget:
        return None
    tuned = trial.settle(built, f"{factory}: chosen by an earlier build, measured again")
    return tuned and trial.complete(tuned)


def narrow(vectors: Vectors) -> list[int]:
    """How many values hold nearly all of unit rows [n, dim], where these are clearly fewer than they have."""
    dim = vectors.shape[1]
    held = faiss_index.principal_axes(vectors)[1]
    widths = {16 * math.ceil((int(np.searchsorted(held, share)) + 1) / 16) for share in HELD}
    return sorted(width for width in widths if width <= NARROWED * dim)


@dataclass(frozen=True)
class _Queries:
    """Queries [q, dim]; `own` [q] is the row that each is, and must not count as found, if they are rows."""

    vectors: Vectors
    own: NDArray[np.int64] | None

    @classmethod
    def rows_of(cls, vectors: Vectors) -> "_Queries":
        own = np.sort(np.random.default_rng(0).choice(len(vectors), min(QUERIES, len(vectors)), replace=False))
        return cls(np.ascontiguousarray(vectors[own]), own)

    def half(self, first: bool) -> "_Queries":
        part = slice(None if first else 1, None, 2)
        return _Queries(self.vectors[part], None if self.own is None else self.own[part])


@dataclass(frozen=True)
class _Built:
    """An index on trial: what it costs to make and to keep."""

    factory: str
    index: ExactIndex
    raw: Any
    bytes_per_vector: float
    seconds: float

    def with_efforts(self, efforts: Sequence[Effort]) -> ExactIndex:
        if not isinstance(self.index, FaissIndex):
            return self.index
        self.index.efforts = tuple(efforts)
        return self.index


class _Trial:
    """One tuning over some vectors; `curve` grows with every measurement."""

    def __init__(
        self, vectors: Vectors, target: float, budget: int | None, queries: _Queries, progress: Progress | None
    ) -> None:
        self.vectors, self.target, self.budget, self.queries = vectors, target, budget, queries
        self.curve: list[Point] = []
        self._centroids: dict[tuple[str, int], Vectors] = {}  # by split: found once, kept as each code
        self._progress = progress or (lambda done, total: None)
        self._exact = _as_items(ExactIndex, vectors)

    def run(self) -> Tuned:
        rows, dim = self.vectors.shape
        within = [
            name for name in candidates(rows, dim, narrow(self.vectors)) if self._fits(bytes_a_vector(name, dim) * rows)
        ]
        finalists = self._finalists(within) if rows > SAMPLE else within
        fast: list[Tuned] = []
        for done, factory in enumerate(finalists):
            built = self.build(factory, self.vectors)
            if self._fits(built.bytes_per_vector * rows):
                tuned = self.settle(built, f"{factory}: the fastest of {len(within)} tried")
                if tuned is not None:
                    fast.append(tuned)
                    best = max(each.queries_per_s for each in fast)
                    fast = [each for each in fast if each.queries_per_s > best / CLOSE]
            self._progress(len(within) + done + 1, len(within) + len(finalists))
        if not fast:
            raise BadQuery(self._unreachable(), "memory_budget")
        return self.complete(self._fastest(fast))

    def build(self, factory: str, vectors: Vectors) -> _Built:
        started = time.perf_counter()
        if factory == "Flat":
            return _Built(factory, _as_items(ExactIndex, vectors), None, 4.0 * vectors.shape[1], 0.0)
        lists = (split(factory), len(vectors))
        raw = faiss_index.train(vectors, factory, self._centroids.get(lists))
        if lists[0]:
            inner, _ = faiss_index.unwrap(raw)
            self._centroids[lists] = inner.quantizer.reconstruct_n(0, inner.nlist)
        seconds = time.perf_counter() - started
        index = _as_items(FaissIndex, vectors, factory, raw)
        return _Built(factory, index, raw, _size(raw) / len(vectors), round(seconds, 3))

    def settle(self, built: _Built, note: str) -> Tuned | None:
        """The least effort of an index that reaches the target, proven by other queries; None where none does."""
        tried, proof = self.queries.half(True), self.queries.half(False)
        truth, proven = _truth(self._exact, tried), _truth(self._exact, proof)
        for effort, _, _ in self._rising(built, tried, truth, self.target + MARGIN):
            recall, seconds = _measure(built.with_efforts((effort,)), proof, proven)
            if recall >= self.target:
                return Tuned(
                    built.factory,
                    built.raw,
                    (replace(effort, microseconds=round(seconds * 1e6, 1)),),
                    round(recall, 4),
                    round(1 / seconds, 1),
                    round(built.bytes_per_vector, 1),
                    (),
                    note,
                )
        return None

    def _fastest(self, close: list[Tuned]) -> Tuned:
        """Of several that measured much the same, the fastest in turns: what else a machine does passes in seconds."""
        if len(close) == 1:
            return close[0]
        proof = self.queries.half(False)
        truth = _truth(self._exact, proof)
        rounds: list[list[float]] = [[] for _ in close]
        for _ in range(ROUNDS):
            for tuned, seconds in zip(close, rounds, strict=True):
                built = _Built(tuned.factory, self._index(tuned.factory, tuned.raw), tuned.raw, 0, 0)
                seconds.append(_measure(built.with_efforts(tuned.efforts), proof, truth)[1])
        return close[int(np.argmin([np.median(seconds) for seconds in rounds]))]

    def _index(self, factory: str, raw: Any) -> Any:
        return self._exact if raw is None else _as_items(FaissIndex, self.vectors, factory, raw)

    def _finalists(self, within: Sequence[str]) -> list[str]:
        """The factories that come near the fastest on a sample, reckoned up to all rows."""
        rows = len(self.vectors)
        chosen = np.sort(np.random.default_rng(1).choice(rows, SAMPLE, replace=False))
        sample = np.ascontiguousarray(self.vectors[chosen])
        exact = _as_items(ExactIndex, sample)
        queries = _Queries.rows_of(sample) if self.queries.own is not None else self.queries
        tried = queries.half(True)
        truth = _truth(exact, tried)
        reckoned: dict[str, float] = {}
        for done, factory in enumerate(within):
            # An inverted file on a fraction of the rows has that much fewer lists of the same length.
            built = self.build(scaled(factory, SAMPLE / rows), sample)
            reached = next(self._rising(built, tried, truth, self.target + MARGIN), None)
            if reached is not None:
                growth = {"Flat": rows / SAMPLE, "HNSW": math.log(rows) / math.log(SAMPLE)}
                reckoned[factory] = reached[2] * growth.get(body(factory)[:4], 1.0)
            self._progress(done + 1, 2 * len(within))
        fastest = sorted(reckoned, key=reckoned.__getitem__)
        best = reckoned[fastest[0]] if fastest else math.inf
        near = [name for name in fastest if reckoned[name] <= NEAR * best]
        splits = [*dict.fromkeys(split(name) for name in near if split(name))][:SPLITS]
        return [
            name
            for name in fastest
            if (split(name) in splits and reckoned[name] <= NEAR_OF_ONE_SPLIT * best)
            or (not split(name) and name in near)
        ]

    def _rising(
        self, built: _Built, queries: _Queries, truth: NDArray[np.float32], target: float
    ) -> Iterator[tuple[Effort, float, float]]:
        """Efforts of an index that reach a recall, the fastest first, each with its recall and seconds a query."""
        reached = []
        for refine in refines(built.factory):
            best, before = math.inf, 0.0
            for probe in _probes(built):
                effort = Effort(REACH, probe, refine)
                recall, seconds = _measure(built.with_efforts((effort,)), queries, truth)
                self.curve.append(
                    Point(
                        built.factory,
                        probe,
                        refine,
                        len(built.index.owners),
                        round(recall, 4),
                        round(1 / seconds, 1),
                        round(built.bytes_per_vector, 1),
                        built.seconds,
                    )
                )
                if recall >= target:
                    reached.append((effort, recall, seconds))
                    best = min(best, seconds)
                # Two more after the first that is good enough: the proof may ask for more.
                if seconds > 1.5 * best or (len(reached) > 2 and reached[-3][0].refine == refine):
                    break
                if recall - before < STALLED and recall < target:  # what quantisation loses, probing does not find
                    break
                before = recall
        yield from sorted(reached, key=lambda one: one[2])

    def complete(self, tuned: Tuned) -> Tuned:
        """The chosen index with its curve, and what it takes it among ever smaller shares of the rows."""
        if tuned.raw is None:
            return replace(tuned, efforts=(), curve=tuple(self.curve))
        queries = self.queries.half(True)
        built = _Built(tuned.factory, self._index(tuned.factory, tuned.raw), tuned.raw, 0, 0)
        pace = self._exact_pace(queries)
        efforts = list(tuned.efforts)
        for share in SHARES:
            efforts.append(self._among(built, queries, share, efforts[-1]))
        rows_for = (round(effort.microseconds / pace) for effort in efforts)
        efforts = [replace(effort, exact_rows=count) for effort, count in zip(efforts, rows_for, strict=True)]
        return replace(tuned, efforts=tuple(efforts), curve=tuple(self.curve))

    def _among(self, built: _Built, queries: _Queries, share: float, least: Effort) -> Effort:
        """The fastest effort that finds the best of a share of the rows.

        The rows are any, and then those around a few points, as a category is: most queries lie far from all of these,
        where quantisation and projection tell the rows apart least.
        """
        generator = np.random.default_rng(2)
        rows = len(self.vectors)
        scattered = generator.random(rows) < share
        gathered = np.zeros(rows, np.bool_)
        for centre in self.vectors[generator.integers(rows, size=GATHERED)]:
            nearest = np.argpartition(-(self.vectors @ centre), math.ceil(share * rows / GATHERED) - 1)
            gathered[nearest[: math.ceil(share * rows / GATHERED)]] = True
        asked = [(mask, _truth(self._exact, queries, mask)) for mask in map(Selection, (scattered, gathered))]
        best = effort = least
        for refine in (refine for refine in REFINES if refine >= least.refine):
            for probe in (probe for probe in _probes(built) if probe >= least.probe):
                effort = Effort(REACH / share, probe, refine)
                index = built.with_efforts((effort,))
                measured = [_measure(index, queries, truth, selection) for selection, truth in asked]
                slowest = 1e6 * max(seconds for _, seconds in measured)
                effort = replace(effort, microseconds=round(slowest, 1))
                if best is not least and slowest >= best.microseconds:
                    break
                if min(recall for recall, _ in measured) >= self.target + MARGIN:
                    best = effort
                    break
        return best if best is not least else effort

    def _exact_pace(self, queries: _Queries) -> float:
        """Microseconds that exact search takes for each allowed row."""
        share = min(0.2, 3000 / len(self.vectors))
        selection = Selection(np.random.default_rng(3).random(len(self.vectors)) < share)
        truth = np.zeros(len(queries.vectors), np.float32)
        return 1e6 * _measure(self._exact, queries, truth, selection)[1] / max(1, selection.count)

    def _fits(self, size: float) -> bool:
        return self.budget is None or size <= self.budget

    def _unreachable(self) -> str:
        rows = len(self.vectors)
        inside = [point for point in self.curve if self._fits(point.bytes_per_vector * rows)]
        best = max(inside, key=lambda point: point.recall10, default=None)
        needed = 4 * self.vectors.shape[1] * rows
        what = f"{best.factory} finds {best.recall10:.3f}" if best else "no index fits there"
        return (
            f"no index inside {self.budget:,} bytes finds {self.target} of the ten nearest: {what}. Lower the recall "
            f"target to that, or allow {needed:,} bytes, which exact search needs"
        )


def _as_items(kind: Any, vectors: Vectors, factory: str = "", raw: Any = None) -> Any:
    """An index in which each row is an item of its own."""
    numbers = np.arange(len(vectors), dtype=np.int32)
    space = Space("tuning", vectors.shape[1], "")
    if kind is ExactIndex:
        return ExactIndex(space, vectors, numbers, numbers, len(vectors))
    return FaissIndex(space, factory, raw, vectors, numbers, numbers, len(vectors), ())


def _truth(exact: ExactIndex, queries: _Queries, allowed: Selection | None = None) -> NDArray[np.float32]:
    """The score that a right answer must have, [q]: by score, as of rows that tie for the last place any is right."""
    hits = exact.search(queries.vectors, K + 1, allowed)
    least = np.full(len(hits.ids), -np.inf, np.float32)
    for query, count in enumerate(hits.counts):
        scores = hits.scores[query, :count]
        if queries.own is not None:
            scores = scores[hits.ids[query, :count] != queries.own[query]]
        if len(scores):
            least[query] = float(scores[:K].min()) - 2 * TIE
    return least


def _measure(
    index: ExactIndex, queries: _Queries, truth: NDArray[np.float32], allowed: Selection | None = None
) -> tuple[float, float]:
    """Recall@10 and the median seconds of a query, asked one at a time on one thread."""
    index.search(queries.vectors[:1], K + 1, allowed)  # what is made at first use is not what a search takes
    seconds, found = np.empty(len(truth)), np.empty(len(truth))
    with one_thread():
        for query in range(len(truth)):
            vector = queries.vectors[query : query + 1]
            started = time.perf_counter()
            hits = index.search(vector, K + 1, allowed)
            seconds[query] = time.perf_counter() - started
            right = hits.scores[0] >= truth[query]
            if queries.own is not None:
                right &= hits.ids[0] != queries.own[query]
            found[query] = min(K, int(np.count_nonzero(right)))
    possible = K if allowed is None else min(K, allowed.count)
    return float(np.minimum(1, found / max(1, possible)).mean()), float(np.median(seconds))


def _probes(built: _Built) -> tuple[int, ...]:
    if built.raw is None:
        return (0,)
    inner, _ = faiss_index.unwrap(built.raw)
    if not isinstance(inner, faiss.IndexIVF):
        return WIDTHS
    return (*(probe for probe in PROBES if probe < inner.nlist), inner.nlist)


def _size(raw: Any) -> int:
    """The bytes of an index as a file, without writing one."""
    total = 0

    def count(block: bytes) -> None:
        nonlocal total
        total += len(block)

    faiss.write_index(raw, faiss.PyCallbackIOWriter(count))
    return total
