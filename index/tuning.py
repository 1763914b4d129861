"""Tune: find the fastest index that reaches the recall target within the memory budget, by measuring.

Each index type is built on a sample first, and its effort is raised until it finds the ten best often enough. The types
that come near the fastest on the sample, extrapolated to all rows, are built on all rows and measured again. The
measurements on the way are the curve. Recall is measured with queries that were not used to choose the effort.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.errors import InvalidQuery
from index.exact_index import ExactIndex
from index.faiss_files import principal_axes, serialized_size, split_projection, train_index
from index.faiss_index import FaissIndex, SearchEffort
from index.index_types import (
    candidate_factories,
    coarse_part,
    estimate_bytes_per_vector,
    refine_factors,
    scale_centroids,
    without_projection,
)
from index.item_mask import ItemMask
from index.progress import Progress
from index.recall_measurement import K, QuerySet, exact_over_rows, faiss_over_rows, measure, required_scores
from index.space import Vectors

MAX_FLAT_ROWS = 4_000  # below this, scanning all rows takes a fraction of a millisecond, so that nothing is measured
SAMPLE_ROWS = 50_000  # rows that each index type is tried on
NEAR = 1.6  # times the best extrapolated time up to which an index type is built on all rows,
NEAR_SAME_LISTS = 2.0  # or, since k-means is the expensive part, one with the same inverted lists as one of these
MAX_COARSE_PARTS = 2  # of the index types built on all rows
MAX_QUERIES = 1000  # half of them choose the effort, the other half confirm it
PROBES = (*range(1, 9), *range(10, 17, 2), *range(20, 33, 4), 40, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
WIDTHS = (*range(10, 17, 2), *range(20, 33, 4), 40, 48, 64, 96, 128, 192, 256, 384, 512)  # efSearch of HNSW
SHARES = (0.5, 0.2, 0.05, 0.01)  # shares of allowed rows that are measured, besides all rows
CLUSTERS = 5  # points that allowed rows are gathered around, where they are not drawn at random
REFINES = (1, 1.5, 2, 3, 5, 10, 20)
CLOSE = 1.2  # times the best time up to which indexes are timed again, in turns
ROUNDS = 3
MIN_GAIN = 0.001  # recall that the next effort has to add
REACH = K + 1.0  # a query that is a row finds itself too
PRESERVED = (0.9, 0.97)  # shares of the squared length that a projection may keep,
MAX_PROJECTED = 0.8  # if that takes at most this share of the values
MARGIN = 0.002  # recall above the target that the effort is raised to: other queries may find a little less


@dataclass(frozen=True)
class TuningPoint:
    """One measurement: the cost of reaching `recall10` on `rows` rows, with one thread and one query at a time."""

    factory: str
    probe: int
    refine: float
    rows: int
    recall10: float
    queries_per_s: float
    bytes_per_vector: float
    build_s: float


@dataclass(frozen=True)
class TunedIndex:
    """The chosen index: `raw` is the FAISS index, None for Flat; `recall10` is of queries that did not choose it."""

    factory: str
    raw: Any
    efforts: tuple[SearchEffort, ...]
    recall10: float
    queries_per_s: float
    bytes_per_vector: float
    curve: tuple[TuningPoint, ...]
    note: str


def tune(
    vectors: Vectors,
    recall_target: float = 0.95,
    memory_budget: int | None = None,
    queries: Vectors | None = None,
    progress: Progress | None = None,
) -> TunedIndex:
    """Choose the fastest index that reaches a recall target.

    Args:
        vectors: The unit rows, [n, dim].
        recall_target: The share of the true ten best that a search has to find.
        memory_budget: The memory of the index in bytes, without the vectors, of which a search reads a few rows from
            disk; None for no limit.
        queries: Real queries, [q, dim]. If None, rows search for their neighbours.
        progress: Called with the steps done and in total.

    Raises:
        InvalidQuery: no index within the budget reaches the target; the message says what would.
    """
    if not 0 < recall_target <= 1:
        raise InvalidQuery(f"recall_target is {recall_target}, expected above 0 and at most 1", "recall_target")
    rows, dim = vectors.shape
    if rows < MAX_FLAT_ROWS and (memory_budget is None or rows * dim * 4 <= memory_budget):
        note = f"Flat: below {MAX_FLAT_ROWS:,} rows, scanning all of them is fast and exact"
        return TunedIndex("Flat", None, (), 1.0, 0.0, 4.0 * dim, (), note)
    return _Tuner(vectors, recall_target, memory_budget, _query_set(vectors, queries), progress).run()


def retune(
    vectors: Vectors,
    factory: str,
    recall_target: float = 0.95,
    memory_budget: int | None = None,
    queries: Vectors | None = None,
) -> TunedIndex | None:
    """Build the index type chosen by an earlier tuning and measure its efforts anew.

    Args:
        vectors: The unit rows, [n, dim].
        factory: The FAISS factory string.
        recall_target: As for `tune`.
        memory_budget: As for `tune`.
        queries: As for `tune`.

    Returns:
        The index, or None if it does not reach the target within the budget any more.
    """
    tuner = _Tuner(vectors, recall_target, memory_budget, _query_set(vectors, queries), None)
    built = tuner.build(factory, vectors)
    if memory_budget is not None and built.bytes_per_vector * len(vectors) > memory_budget:
        return None
    tuned = tuner.choose_effort(built, f"{factory}: chosen by an earlier build, measured again")
    return tuned and tuner.complete(tuned)


def projected_sizes(vectors: Vectors) -> list[int]:
    """Return how many values keep nearly all of unit rows [n, dim], where these are clearly fewer than `dim`."""
    dim = vectors.shape[1]
    shares = principal_axes(vectors)[1]
    sizes = {16 * math.ceil((int(np.searchsorted(shares, share)) + 1) / 16) for share in PRESERVED}
    return sorted(size for size in sizes if size <= MAX_PROJECTED * dim)


def _query_set(vectors: Vectors, queries: Vectors | None) -> QuerySet:
    return QuerySet.from_rows(vectors, MAX_QUERIES) if queries is None else QuerySet(queries, None)


@dataclass(frozen=True)
class _BuiltIndex:
    """An index to be measured, with the cost of building and keeping it."""

    factory: str
    index: ExactIndex
    raw: Any
    bytes_per_vector: float
    seconds: float

    def with_efforts(self, efforts: Sequence[SearchEffort]) -> ExactIndex:
        if not isinstance(self.index, FaissIndex):
            return self.index
        self.index.efforts = tuple(efforts)
        return self.index


class _Tuner:
    """One tuning over some vectors; `curve` grows with every measurement."""

    def __init__(
        self, vectors: Vectors, target: float, budget: int | None, queries: QuerySet, progress: Progress | None
    ) -> None:
        self.vectors, self.target, self.budget, self.queries = vectors, target, budget, queries
        self.curve: list[TuningPoint] = []
        # By coarse part and number of rows: computed once, and used for each code.
        self._centroids: dict[tuple[str, int], Vectors] = {}
        self._progress = progress or (lambda done, total: None)
        self._exact = exact_over_rows(vectors)

    def run(self) -> TunedIndex:
        rows, dim = self.vectors.shape
        within = [
            name
            for name in candidate_factories(rows, dim, projected_sizes(self.vectors))
            if self._fits(estimate_bytes_per_vector(name, dim) * rows)
        ]
        finalists = self._choose_finalists(within) if rows > SAMPLE_ROWS else within
        fast: list[TunedIndex] = []
        for done, factory in enumerate(finalists):
            built = self.build(factory, self.vectors)
            if self._fits(built.bytes_per_vector * rows):
                tuned = self.choose_effort(built, f"{factory}: the fastest of {len(within)} tried")
                if tuned is not None:
                    fast.append(tuned)
                    best = max(each.queries_per_s for each in fast)
                    fast = [each for each in fast if each.queries_per_s > best / CLOSE]
            self._progress(len(within) + done + 1, len(within) + len(finalists))
        if not fast:
            raise InvalidQuery(self._explain_failure(), "memory_budget")
        return self.complete(self._choose_fastest(fast))

    def build(self, factory: str, vectors: Vectors) -> _BuiltIndex:
        started = time.perf_counter()
        if factory == "Flat":
            return _BuiltIndex(factory, exact_over_rows(vectors), None, 4.0 * vectors.shape[1], 0.0)
        key = (coarse_part(factory), len(vectors))
        raw = train_index(vectors, factory, self._centroids.get(key))
        if key[0]:
            inner, _ = split_projection(raw)
            self._centroids[key] = inner.quantizer.reconstruct_n(0, inner.nlist)
        seconds = time.perf_counter() - started
        index = faiss_over_rows(vectors, factory, raw)
        return _BuiltIndex(factory, index, raw, serialized_size(raw) / len(vectors), round(seconds, 3))

    def choose_effort(self, built: _BuiltIndex, note: str) -> TunedIndex | None:
        """Choose the least effort that reaches the target, confirmed with other queries; None if none does."""
        chosen_with, confirmed_with = self.queries.half(True), self.queries.half(False)
        choosing = required_scores(self._exact, chosen_with)
        confirming = required_scores(self._exact, confirmed_with)
        for effort, _, _ in self._sufficient_efforts(built, chosen_with, choosing, self.target + MARGIN):
            recall, seconds = measure(built.with_efforts((effort,)), confirmed_with, confirming)
            if recall >= self.target:
                return TunedIndex(
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

    def _choose_fastest(self, close: list[TunedIndex]) -> TunedIndex:
        """Time indexes with similar times again, in turns, as other load on a machine changes within seconds."""
        if len(close) == 1:
            return close[0]
        queries = self.queries.half(False)
        required = required_scores(self._exact, queries)
        times: list[list[float]] = [[] for _ in close]
        for _ in range(ROUNDS):
            for tuned, seconds in zip(close, times, strict=True):
                seconds.append(measure(self._rebuilt(tuned).with_efforts(tuned.efforts), queries, required)[1])
        return close[int(np.argmin([np.median(seconds) for seconds in times]))]

    def _rebuilt(self, tuned: TunedIndex) -> _BuiltIndex:
        index = self._exact if tuned.raw is None else faiss_over_rows(self.vectors, tuned.factory, tuned.raw)
        return _BuiltIndex(tuned.factory, index, tuned.raw, 0, 0)

    def _choose_finalists(self, within: Sequence[str]) -> list[str]:
        """Choose the factories that come near the fastest on a sample, extrapolated to all rows."""
        rows = len(self.vectors)
        chosen = np.sort(np.random.default_rng(1).choice(rows, SAMPLE_ROWS, replace=False))
        sample = np.ascontiguousarray(self.vectors[chosen])
        all_queries = QuerySet.from_rows(sample, MAX_QUERIES) if self.queries.own is not None else self.queries
        queries = all_queries.half(True)
        required = required_scores(exact_over_rows(sample), queries)
        estimates: dict[str, float] = {}
        for done, factory in enumerate(within):
            # An inverted file on a fraction of the rows has the same fraction of the lists, of the same length.
            built = self.build(scale_centroids(factory, SAMPLE_ROWS / rows), sample)
            sufficient = next(self._sufficient_efforts(built, queries, required, self.target + MARGIN), None)
            if sufficient is not None:
                growth = {"Flat": rows / SAMPLE_ROWS, "HNSW": math.log(rows) / math.log(SAMPLE_ROWS)}
                estimates[factory] = sufficient[2] * growth.get(without_projection(factory)[:4], 1.0)
            self._progress(done + 1, 2 * len(within))
        fastest = sorted(estimates, key=estimates.__getitem__)
        best = estimates[fastest[0]] if fastest else math.inf
        near = [name for name in fastest if estimates[name] <= NEAR * best]
        coarse_parts = [*dict.fromkeys(coarse_part(name) for name in near if coarse_part(name))][:MAX_COARSE_PARTS]
        return [
            name
            for name in fastest
            if (coarse_part(name) in coarse_parts and estimates[name] <= NEAR_SAME_LISTS * best)
            or (not coarse_part(name) and name in near)
        ]

    def _sufficient_efforts(
        self, built: _BuiltIndex, queries: QuerySet, required: NDArray[np.float32], target: float
    ) -> Iterator[tuple[SearchEffort, float, float]]:
        """Yield the efforts that reach a recall, the fastest first, each with its recall and seconds per query.

        Args:
            built: The index.
            queries: The queries to measure with.
            required: The score of a right result of each query, [q].
            target: The recall to reach.
        """
        sufficient = []
        for refine in refine_factors(built.factory):
            best, before = math.inf, 0.0
            for probe in _probes(built):
                effort = SearchEffort(REACH, probe, refine)
                recall, seconds = measure(built.with_efforts((effort,)), queries, required)
                self.curve.append(
                    TuningPoint(
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
                    sufficient.append((effort, recall, seconds))
                    best = min(best, seconds)
                # Two more after the first that is sufficient: the other queries may need more effort.
                if seconds > 1.5 * best or (len(sufficient) > 2 and sufficient[-3][0].refine == refine):
                    break
                if recall - before < MIN_GAIN and recall < target:  # more probes do not find what quantisation loses
                    break
                before = recall
        yield from sorted(sufficient, key=lambda one: one[2])

    def complete(self, tuned: TunedIndex) -> TunedIndex:
        """Add the curve to the chosen index, and the efforts for ever smaller shares of allowed rows."""
        if tuned.raw is None:
            return replace(tuned, efforts=(), curve=tuple(self.curve))
        queries = self.queries.half(True)
        built = self._rebuilt(tuned)
        row_us = self._exact_row_us(queries)
        efforts = list(tuned.efforts)
        for share in SHARES:
            efforts.append(self._effort_for_share(built, queries, share, efforts[-1]))
        counts = (round(effort.microseconds / row_us) for effort in efforts)
        efforts = [replace(effort, exact_rows=count) for effort, count in zip(efforts, counts, strict=True)]
        return replace(tuned, efforts=tuple(efforts), curve=tuple(self.curve))

    def _effort_for_share(
        self, built: _BuiltIndex, queries: QuerySet, share: float, least: SearchEffort
    ) -> SearchEffort:
        """Find the fastest effort that finds the best of a share of the rows.

        The allowed rows are drawn at random, and then gathered around a few points, as a category is: most queries are
        far from all of these, where quantisation and projection distinguish rows least.

        Args:
            built: The index.
            queries: The queries to measure with.
            share: The share of allowed rows.
            least: The effort for the next larger share.
        """
        generator = np.random.default_rng(2)
        rows = len(self.vectors)
        scattered = generator.random(rows) < share
        gathered = np.zeros(rows, np.bool_)
        for centre in self.vectors[generator.integers(rows, size=CLUSTERS)]:
            nearest = np.argpartition(-(self.vectors @ centre), math.ceil(share * rows / CLUSTERS) - 1)
            gathered[nearest[: math.ceil(share * rows / CLUSTERS)]] = True
        masks = map(ItemMask, (scattered, gathered))
        cases = [(mask, required_scores(self._exact, queries, mask)) for mask in masks]
        best = effort = least
        for refine in (refine for refine in REFINES if refine >= least.refine):
            for probe in (probe for probe in _probes(built) if probe >= least.probe):
                effort = SearchEffort(REACH / share, probe, refine)
                index = built.with_efforts((effort,))
                measured = [measure(index, queries, required, mask) for mask, required in cases]
                slowest = 1e6 * max(seconds for _, seconds in measured)
                effort = replace(effort, microseconds=round(slowest, 1))
                if best is not least and slowest >= best.microseconds:
                    break
                if min(recall for recall, _ in measured) >= self.target + MARGIN:
                    best = effort
                    break
        return best if best is not least else effort

    def _exact_row_us(self, queries: QuerySet) -> float:
        """Measure the microseconds that exact search takes for each allowed row."""
        share = min(0.2, 3000 / len(self.vectors))
        mask = ItemMask(np.random.default_rng(3).random(len(self.vectors)) < share)
        required = np.zeros(len(queries.vectors), np.float32)
        return 1e6 * measure(self._exact, queries, required, mask)[1] / max(1, mask.count)

    def _fits(self, size: float) -> bool:
        return self.budget is None or size <= self.budget

    def _explain_failure(self) -> str:
        rows = len(self.vectors)
        within = [point for point in self.curve if self._fits(point.bytes_per_vector * rows)]
        best = max(within, key=lambda point: point.recall10, default=None)
        needed = 4 * self.vectors.shape[1] * rows
        reached = f"the best, {best.factory}, finds {best.recall10:.3f}" if best else "no index fits"
        return (
            f"no index within {self.budget:,} bytes finds {self.target} of the ten nearest ({reached}): lower the "
            f"recall target, or allow {needed:,} bytes for exact search"
        )


def _probes(built: _BuiltIndex) -> tuple[int, ...]:
    if built.raw is None:
        return (0,)
    inner, _ = split_projection(built.raw)
    if not isinstance(inner, faiss.IndexIVF):
        return WIDTHS
    return (*(probe for probe in PROBES if probe < inner.nlist), inner.nlist)
