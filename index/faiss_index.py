"""FAISS search: the FAISS index proposes rows, exact scores order them, and each item is returned once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock, local
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import gpu
from index.exact_index import ExactIndex
from index.faiss_files import split_projection
from index.item_mask import ItemMask
from index.space import NearestItems, Owners, Space, Vectors, normalize_queries
from index.top_k import TIE, top_k

MIN_PROPOSED = 10  # `refine` was measured with k = 10: the best row may be a few positions down
MIN_GRAPH_ROWS = 4096  # allowed rows below which a graph is not searched
SMALL = 1e-9


@dataclass(frozen=True)
class SearchEffort:
    """How thoroughly to search for the k best of a share s of the rows, where `reach` is k / s.

    The best ten of a tenth of the rows are as far away as the best hundred of all, so that one number covers both.

    Attributes:
        reach: k / s that the other values were measured for.
        probe: The search parameter of the index type: `nprobe` of IVF, `efSearch` of HNSW.
        refine: Rows proposed for each requested one; exact scores correct the order that quantisation or projection
            gets wrong.
        microseconds: The measured time of one query.
        exact_rows: How many rows exact search scores in that time.
    """

    reach: float
    probe: int
    refine: float
    microseconds: float = 0.0
    exact_rows: int = 0


@dataclass(frozen=True)
class RowFilter:
    """An item mask applied to the rows of an index.

    `lists` are the inverted lists with at least one allowed row, and `centroids` [m, dim] theirs; None for an index
    without lists. They are searched exactly: the graph over all centroids finds what is near the query, and the
    allowed rows may be anywhere.
    """

    rows: int  # allowed rows
    share: float  # of all rows
    selector: Any
    bits: NDArray[np.uint8]  # the selector points to this memory
    parameters: dict[int, Any]  # FAISS search parameters with the selector, by probe
    lists: NDArray[np.int64] | None = None
    centroids: Vectors | None = None


class FaissIndex(ExactIndex):
    """Rows [n, dim] in a FAISS index beside the vectors themselves, both usually memory-mapped."""

    def __init__(
        self,
        space: Space,
        factory: str,
        index: Any,
        vectors: Vectors,
        owners: Owners,
        labels: Owners,
        items: int,
        efforts: Sequence[SearchEffort],
    ) -> None:
        """Wrap a FAISS index.

        Args:
            space: The space of the vectors.
            factory: The FAISS factory string of the index.
            index: The FAISS index over `vectors`.
            vectors: The rows, [n, dim].
            owners: The item index of each row, [n], never decreasing.
            labels: A number of the caller for each row, [n].
            items: The number of items.
            efforts: Measured when the index was built, by ascending reach.
        """
        super().__init__(space, vectors, owners, labels, items)
        self.factory = factory
        self.efforts = tuple(efforts)
        self._outer = index  # keeps the inner index alive
        self._index, self._projection = split_projection(index)
        # Read from FAISS once: reading attributes of its objects takes as long as a part of a search.
        self._is_graph = isinstance(self._index, faiss.IndexHNSW)
        self._is_inverted = isinstance(self._index, faiss.IndexIVF)
        self._max_probe = int(self._index.nlist) if self._is_inverted else len(owners)
        self._parameters: dict[int, Any] = {}
        self._thread_local = local()
        device = gpu.find_gpu()
        self._gpu_index = device.upload(self._index) if device is not None else None
        self._gpu_lock = Lock()
        self._rows_per_item = 1.0 if self._one_row_each else len(owners) / max(1, items)
        self._identity = self._one_row_each and len(owners) == items  # the row of an item equals its item index

    def search(self, queries: Vectors, k: int, allowed: ItemMask | None = None) -> NearestItems:
        """Find the k best items for each of q queries [q, dim]; see VectorIndex.

        If the FAISS index proposes fewer than k items, exact search answers the query.
        """
        queries = normalize_queries(queries, self.space.dim, k)
        rows, share, row_filter = len(self.owners), 1.0, None
        if allowed is not None:
            row_filter = allowed.cached((self, "filter"), self._make_filter)
            rows, share = row_filter.rows, max(row_filter.share, SMALL)
        reach = k * self._rows_per_item / share
        effort = self.efforts[0] if reach <= self.efforts[0].reach else self._find_effort(reach)
        # Efforts are measured with k = 10. For a larger k, codes need no more room for a row than without a filter.
        room = max(effort.refine * MIN_PROPOSED, self.efforts[0].refine * k)
        count = round(room * self._rows_per_item)
        # A graph leads to what is near the query; if all allowed rows are far, it may not find them. A few rows are
        # scored exactly, whichever was slower when it was measured.
        max_exact = max(effort.exact_rows, MIN_GRAPH_ROWS if self._is_graph else 0)
        if count >= rows or (row_filter is not None and rows < max_exact):
            return super().search(queries, k, allowed)
        single = self._single_query_buffers(count)
        if len(queries) == 1:
            self._propose(queries, effort.probe, row_filter, single)
            items, scores = self._order(queries, k, single)
            if items.shape[1] == k:
                return NearestItems(items, scores, np.array((k,)))
            return super().search(queries, k, allowed)
        results, proposed = NearestItems.empty(len(queries), k), _Buffers(len(queries), count)
        self._propose(queries, effort.probe, row_filter, proposed)
        for position in range(len(queries)):
            query = queries[position : position + 1]
            single.rows[0] = proposed.rows[position]
            items, scores = self._order(query, k, single)
            size = items.shape[1]
            if size < k:
                exact = super().search(query, k, allowed)
                items, scores, size = exact.items, exact.scores, int(exact.counts[0])
            results.fill(position, items[0, :size], scores[0, :size])
        return results

    def raise_effort(self) -> bool:
        """Search more thoroughly from now on; returns False if the maximum is reached."""
        if self.efforts[0].probe >= self._max_probe:
            return False
        self.efforts = tuple(
            replace(effort, probe=min(self._max_probe, effort.probe + max(1, effort.probe // 4)))
            for effort in self.efforts
        )
        return True

    def _find_effort(self, reach: float) -> SearchEffort:
        """Return the next larger measured effort for a reach; beyond the last, a power law through the last two."""
        for effort in self.efforts:
            if effort.reach >= reach:
                return effort
        last = self.efforts[-1]
        before = self.efforts[-2] if len(self.efforts) > 1 else last
        slope = 0.5  # at least as the square root of the reach
        if before.reach < last.reach:
            slope = max(slope, math.log(last.probe / before.probe) / math.log(last.reach / before.reach))
        factor = (reach / last.reach) ** slope
        return SearchEffort(
            reach,
            min(math.ceil(last.probe * factor), self._max_probe),
            last.refine,
            last.microseconds * factor,
            round(last.exact_rows * factor),
        )

    def _propose(self, queries: Vectors, probe: int, row_filter: RowFilter | None, output: "_Buffers") -> None:
        """Write the rows that may be the best into `output.rows` [q, size], padded with -1."""
        if self._projection is not None:
            queries = queries @ self._projection
        probe_or_width = max(probe, output.size) if self._is_graph else probe
        cache = self._parameters if row_filter is None else row_filter.parameters
        parameters = cache.get(probe_or_width)
        if parameters is None:  # creating them takes as long as ordering the results
            parameters = self._make_parameters(probe_or_width, None if row_filter is None else row_filter.selector)
            cache[probe_or_width] = parameters
        if row_filter is not None and row_filter.lists is not None and row_filter.centroids is not None:
            self._propose_from_lists(queries, probe, row_filter.lists, row_filter.centroids, parameters, output)
        elif row_filter is None and self._gpu_index is not None and output.size <= gpu.MAX_RESULTS:
            with self._gpu_lock:  # the GPU runs one search at a time
                output.rows[:] = self._gpu_index.search(queries, output.size, params=parameters)[1]
        else:
            # The C++ call: FAISS's Python wrapper takes a fifth of the time of a search of one query.
            self._index.search_c(
                len(queries),
                faiss.swig_ptr(queries),
                output.size,
                output.scores_pointer,
                output.rows_pointer,
                parameters,
            )

    def _make_parameters(self, probe: int, selector: Any) -> Any:
        if self._is_graph:
            return faiss.SearchParametersHNSW(efSearch=probe, sel=selector)
        if self._is_inverted:
            return faiss.SearchParametersIVF(nprobe=probe, sel=selector)
        return faiss.SearchParameters(sel=selector)

    def _propose_from_lists(
        self,
        queries: Vectors,
        probe: int,
        lists: NDArray[np.int64],
        centroids: Vectors,
        parameters: Any,
        output: "_Buffers",
    ) -> None:
        """Propose rows from the nearest of the given lists, so that lists without allowed rows cost no probes.

        Args:
            queries: The projected queries, [q, d].
            probe: The number of lists to search.
            lists: The lists with allowed rows, [m].
            centroids: Their centroids, [m, d].
            parameters: FAISS search parameters with the selector.
            output: Where to write the rows.
        """
        scores = queries @ centroids.T  # [q, m]
        probe = parameters.nprobe = min(probe, len(lists))
        if probe < len(lists):
            nearest = np.argpartition(-scores, probe - 1, axis=1)[:, :probe]
            chosen, distances = lists[nearest], np.take_along_axis(scores, nearest, 1)
        else:
            chosen, distances = np.tile(lists, (len(queries), 1)), np.ascontiguousarray(scores)
        # Not FAISS's Python wrapper, which does not pass parameters on and so ignores the selector.
        self._index.search_preassigned_c(
            len(queries),
            faiss.swig_ptr(queries),
            output.size,
            faiss.swig_ptr(chosen),
            faiss.swig_ptr(distances),
            output.scores_pointer,
            output.rows_pointer,
            False,
            parameters,
        )

    def _order(self, query: Vectors, k: int, proposed: "_Buffers") -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the k best items of the rows in `proposed.rows[0]`, [1, k], and their scores; fewer if there are."""
        count = proposed.size
        if proposed.rows[0, -1] < 0:  # FAISS pads at the end
            count = int(np.count_nonzero(proposed.rows[0] >= 0))
        # One call scores and sorts all rows, best first: doing both in Python would take three times as long.
        faiss.knn_inner_products_by_idx(
            faiss.swig_ptr(query),
            self._pointer,
            proposed.rows_pointer,
            self.space.dim,
            1,
            len(self.vectors),
            count,
            count,
            proposed.scores_pointer,
            proposed.ranked_pointer,
        )
        if self._one_row_each and count > k and _have_no_ties(proposed.scores[0, : k + 1].tolist()):
            best = proposed.ranked[:, :k]
            items = best.copy() if self._identity else self.owners[best].astype(np.int64)
            return items, proposed.scores[:, :k].copy()
        scores, rows = proposed.scores[0, :count], proposed.ranked[0, :count]
        items = rows if self._identity else self.owners[rows].astype(np.int64)
        if not self._one_row_each:
            items = np.unique(items)
            scores = self.score_items(query[0], items)  # the best row of an item may be missing from the proposed
        order = top_k(scores, items, k, TIE)
        return items[order][None], scores[order][None]

    def _single_query_buffers(self, size: int) -> "_Buffers":
        """Return this thread's buffers for one query: creating them takes as long as filling them."""
        try:
            buffers: _Buffers = self._thread_local.buffers[size]
        except (AttributeError, KeyError):
            buffers = _Buffers(1, size)
            self._thread_local.__dict__.setdefault("buffers", {})[size] = buffers
        return buffers

    def _make_filter(self, allowed: ItemMask) -> RowFilter:
        rows = allowed.mask[self.owners]
        bits = np.packbits(rows, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        count = int(np.count_nonzero(rows))
        if not self._is_inverted or not count:
            return RowFilter(count, count / max(1, len(rows)), selector, bits, {})
        share = count / len(rows)
        lists = np.flatnonzero(np.bincount(self._row_lists[rows], minlength=self._index.nlist))
        return RowFilter(count, share, selector, bits, {}, lists, np.ascontiguousarray(self._centroids[lists]))

    @cached_property
    def _row_lists(self) -> NDArray[np.int32]:
        """The inverted list of each row, [n]."""
        lists = np.empty(len(self.owners), np.int32)
        inverted = self._index.invlists
        for number in range(self._index.nlist):
            size = inverted.list_size(number)
            if size:
                lists[faiss.rev_swig_ptr(inverted.get_ids(number), size)] = number
        return lists

    @cached_property
    def _centroids(self) -> Vectors:
        centroids: Vectors = self._index.quantizer.reconstruct_n(0, self._index.nlist)
        return centroids


def _have_no_ties(scores: list[float]) -> bool:
    """Whether descending scores have no ties; for a few scores a list takes a tenth of the time of numpy."""
    before = math.inf
    for score in scores:
        if before - score <= TIE:
            return False
        before = score
    return True


class _Buffers:
    """Memory that FAISS writes results of q queries into: `rows` and `scores` [q, size], `ranked` [1, size]."""

    def __init__(self, queries: int, size: int) -> None:
        self.size = size
        self.rows, self.scores = np.empty((queries, size), np.int64), np.empty((queries, size), np.float32)
        self.ranked = np.empty((1, size), np.int64)
        self.rows_pointer, self.scores_pointer = faiss.swig_ptr(self.rows), faiss.swig_ptr(self.scores)
        self.ranked_pointer = faiss.swig_ptr(self.ranked)
