"""FAISS search: the index proposes rows, exact scores order them, items come out once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock, local
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import gpu
from index.errors import Damaged, Missing
from index.exact import TIE, ExactIndex, empty_hits, record, top
from index.index_types import parse_projection
from index.selection import Selection
from index.space import Hits, Owners, Space, Vectors, check_queries

ROWS_A_CENTROID = 48  # of training: k-means wants 39 at the least
MIN_TRAINED = 1 << 14
COARSE_WIDTH = 8
SPANNED = 20_000  # rows that the axes of a projection are found with
MIN_PROPOSED = 10  # what `refine` was measured with: the best of one may be a few places down
FEW_IN_GRAPH = 4096  # allowed rows below which a graph is not asked
SMALL = 1e-9


@dataclass(frozen=True)
class Effort:
    """How hard to search for the k best among a share s of the rows, where `reach` is k / s.

    The best ten of a tenth of the rows lie as far away as the best hundred of all, so that one number covers both.
    `probe` is the family's search parameter: `nprobe` of IVF, `efSearch` of HNSW. `refine` rows are proposed for each
    that is asked for: what quantisation or projection puts in the wrong order, exact scores put right. `microseconds`
    is what one query took so; `exact_rows` is how many rows exact search scores in that time.
    """

    reach: float
    probe: int
    refine: float
    microseconds: float = 0.0
    exact_rows: int = 0


@dataclass(frozen=True)
class Filter:
    """A selection as an index of rows sees it: its `share` of them, and where these are.

    `lists` are the inverted lists that hold anything allowed, with `centroids` [m, dim]; None for a family without.
    They are found exactly: a graph over centroids is made for what lies near, and what is allowed may lie anywhere.
    """

    rows: int
    share: float
    selector: Any
    bits: NDArray[np.uint8]  # what the selector points to
    parameters: dict[int, Any]  # of searches through it, by effort
    lists: NDArray[np.int64] | None = None
    centroids: Vectors | None = None


class FaissIndex(ExactIndex):
    """Rows [n, dim] in a FAISS index beside the vectors themselves, both usually memory-mapped.

    `efforts` are in rising order of reach; how far each goes was measured when the index was built.
    """

    def __init__(
        self,
        space: Space,
        factory: str,
        index: Any,
        vectors: Vectors,
        owners: Owners,
        labels: Owners,
        items: int,
        efforts: Sequence[Effort],
    ) -> None:
        super().__init__(space, vectors, owners, labels, items)
        self.factory = factory
        self.efforts = tuple(efforts)
        self._whole = index  # of which the inner one is a part
        self._index, self._projection = unwrap(index)
        # Asked of FAISS once: looking into its objects takes as long as a part of a search.
        self._is_graph = isinstance(self._index, faiss.IndexHNSW)
        self._is_inverted = isinstance(self._index, faiss.IndexIVF)
        self._most = int(self._index.nlist) if self._is_inverted else len(owners)
        self._parameters: dict[int, Any] = {}
        self._of_thread = local()
        where = gpu.gpu()
        self._on_gpu = where.upload(self._index) if where is not None else None
        self._gpu_lock = Lock()
        self._rows_an_item = 1.0 if self._one_row_each else len(owners) / max(1, items)
        self._identity = self._one_row_each and len(owners) == items  # row and item have the same number

    def search(self, queries: Vectors, k: int, allowed: Selection | None = None) -> Hits:
        """The k best items for each of q queries [q, dim], ties by item number; `allowed` limits them.

        Always k items where k are allowed: if the index proposes too few, the query is answered by exact search.
        """
        queries = check_queries(queries, self.space.dim, k)
        rows, share, seen = len(self.owners), 1.0, None
        if allowed is not None:
            seen = allowed.made_for((self, "filter"), self._filter)
            rows, share = seen.rows, max(seen.share, SMALL)
        reach = k * self._rows_an_item / share
        effort = self.efforts[0] if reach <= self.efforts[0].reach else self._effort(reach)
        # Efforts are measured with k = 10. For more, codes need no more room a row than without a filter.
        room = max(effort.refine * MIN_PROPOSED, self.efforts[0].refine * k)
        wanted = round(room * self._rows_an_item)
        # A graph leads to what is near the query; where all that is allowed is far, it may be lost. A few are looked
        # through one by one, whatever took longer when it was measured.
        few = max(effort.exact_rows, FEW_IN_GRAPH if self._is_graph else 0)
        if wanted >= rows or (seen is not None and rows < few):
            return super().search(queries, k, allowed)
        one = self._buffers(wanted)
        if len(queries) == 1:
            self._propose(queries, effort.probe, seen, one)
            items, scores = self._order(queries, k, one)
            if items.shape[1] == k:
                return Hits(items, scores, np.array((k,)))
            return super().search(queries, k, allowed)
        hits, proposed = empty_hits(len(queries), k), _Buffers(len(queries), wanted)
        self._propose(queries, effort.probe, seen, proposed)
        for number in range(len(queries)):
            query = queries[number : number + 1]
            one.rows[0] = proposed.rows[number]
            items, scores = self._order(query, k, one)
            count = items.shape[1]
            if count < k:
                exact = super().search(query, k, allowed)
                items, scores, count = exact.ids, exact.scores, int(exact.counts[0])
            record(hits, number, items[0, :count], scores[0, :count])
        return hits

    def raise_effort(self) -> bool:
        """Search harder from now on; False where the hardest was reached."""
        if self.efforts[0].probe >= self._most:
            return False
        self.efforts = tuple(
            replace(effort, probe=min(self._most, effort.probe + max(1, effort.probe // 4))) for effort in self.efforts
        )
        return True

    def _effort(self, reach: float) -> Effort:
        """The effort for a reach: the next one measured, or beyond them all a power law through the last two."""
        for effort in self.efforts:
            if effort.reach >= reach:
                return effort
        far = self.efforts[-1]
        near = self.efforts[-2] if len(self.efforts) > 1 else far
        slope = 0.5  # at least as the square root of the reach
        if near.reach < far.reach:
            slope = max(slope, math.log(far.probe / near.probe) / math.log(far.reach / near.reach))
        times = (reach / far.reach) ** slope
        return Effort(
            reach,
            min(math.ceil(far.probe * times), self._most),
            far.refine,
            far.microseconds * times,
            round(far.exact_rows * times),
        )

    def _propose(self, queries: Vectors, probe: int, seen: Filter | None, into: "_Buffers") -> None:
        """Write rows that may be the best into `into.rows` [q, wanted], -1 where there are no more."""
        if self._projection is not None:
            queries = queries @ self._projection
        effort = max(probe, into.wanted) if self._is_graph else probe
        known = self._parameters if seen is None else seen.parameters
        parameters = known.get(effort)
        if parameters is None:  # making them takes as long as ordering what is found
            parameters = known[effort] = self._parameters_for(effort, None if seen is None else seen.selector)
        if seen is not None and seen.lists is not None and seen.centroids is not None:
            self._propose_from(queries, probe, seen.lists, seen.centroids, parameters, into)
        elif seen is None and self._on_gpu is not None and into.wanted <= gpu.MOST:
            with self._gpu_lock:  # a card takes one search at a time
                into.rows[:] = self._on_gpu.search(queries, into.wanted, params=parameters)[1]
        else:
            # The bare call: FAISS's own wrapper takes a fifth of a search of one query.
            self._index.search_c(
                len(queries), faiss.swig_ptr(queries), into.wanted, into.scores_at, into.rows_at, parameters
            )

    def _parameters_for(self, probe: int, selector: Any) -> Any:
        if self._is_graph:
            return faiss.SearchParametersHNSW(efSearch=probe, sel=selector)
        if self._is_inverted:
            return faiss.SearchParametersIVF(nprobe=probe, sel=selector)
        return faiss.SearchParameters(sel=selector)

    def _propose_from(
        self,
        queries: Vectors,
        probe: int,
        lists: NDArray[np.int64],
        centroids: Vectors,
        parameters: Any,
        into: "_Buffers",
    ) -> None:
        """As `_propose`, from the nearest of some lists: what a filter empties costs nothing and hides nothing."""
        scores = queries @ centroids.T  # [q, m]
        probe = parameters.nprobe = min(probe, len(lists))
        if probe < len(lists):
            nearest = np.argpartition(-scores, probe - 1, axis=1)[:, :probe]
            chosen, distances = lists[nearest], np.take_along_axis(scores, nearest, 1)
        else:
            chosen, distances = np.tile(lists, (len(queries), 1)), np.ascontiguousarray(scores)
        # Not FAISS's own wrapper, which does not pass parameters on, and so no selector.
        self._index.search_preassigned_c(
            len(queries),
            faiss.swig_ptr(queries),
            into.wanted,
            faiss.swig_ptr(chosen),
            faiss.swig_ptr(distances),
            into.scores_at,
            into.rows_at,
            False,
            parameters,
        )

    def _order(self, query: Vectors, k: int, found: "_Buffers") -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best items of the rows in `found.rows[0]`, [1, k], and their scores; fewer where there are fewer."""
        count = found.wanted
        if found.rows[0, -1] < 0:  # FAISS pads at the end
            count = int(np.count_nonzero(found.rows[0] >= 0))
        # All by one call, best first: reading scores and sorting them here would take three times as long.
        faiss.knn_inner_products_by_idx(
            faiss.swig_ptr(query),
            self._pointer,
            found.rows_at,
            self.space.dim,
            1,
            len(self.vectors),
            count,
            count,
            found.scores_at,
            found.ranked_at,
        )
        if self._one_row_each and count > k and _are_apart(found.scores[0, : k + 1].tolist()):
            best = found.ranked[:, :k]
            return best.copy() if self._identity else self.owners[best].astype(np.int64), found.scores[:, :k].copy()
        scores, rows = found.scores[0, :count], found.ranked[0, :count]
        items = rows if self._identity else self.owners[rows].astype(np.int64)
        if not self._one_row_each:
            items = np.unique(items)
            scores = self.scores_of(query[0], items)  # the best row of an item need not be among the proposed
        order = top(scores, items, k)
        return items[order][None], scores[order][None]

    def _buffers(self, wanted: int) -> "_Buffers":
        """This thread's own for one query: with their pointers, they take as long to make as to fill."""
        try:
            buffers: _Buffers = self._of_thread.buffers[wanted]
        except (AttributeError, KeyError):
            buffers = _Buffers(1, wanted)
            self._of_thread.__dict__.setdefault("buffers", {})[wanted] = buffers
        return buffers

    def _filter(self, allowed: Selection) -> Filter:
        rows = allowed.mask[self.owners]
        bits = np.packbits(rows, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        count = int(np.count_nonzero(rows))
        if not self._is_inverted or not count:
            return Filter(count, count / max(1, len(rows)), selector, bits, {})
        share = count / len(rows)
        lists = np.flatnonzero(np.bincount(self._lists[rows], minlength=self._index.nlist))
        return Filter(count, share, selector, bits, {}, lists, np.ascontiguousarray(self._centroids[lists]))

    @cached_property
    def _lists(self) -> NDArray[np.int32]:
        """Which inverted list each row is in, [n]."""
        lists = np.empty(len(self.owners), np.int32)
        inverted = self._index.invlists
        for each in range(self._index.nlist):
            size = inverted.list_size(each)
            if size:
                lists[faiss.rev_swig_ptr(inverted.get_ids(each), size)] = each
        return lists

    @cached_property
    def _centroids(self) -> Vectors:
        centroids: Vectors = self._index.quantizer.reconstruct_n(0, self._index.nlist)
        return centroids


def _are_apart(scores: list[float]) -> bool:
    """Whether falling scores have no ties; of a few, in a list, that is told in a tenth of what numpy takes."""
    above = math.inf
    for score in scores:
        if above - score <= TIE:
            return False
        above = score
    return True


class _Buffers:
    """What FAISS writes into for q queries, and where it is: `rows` and `scores` [q, wanted], `ranked` [1, wanted]."""

    def __init__(self, queries: int, wanted: int) -> None:
        self.wanted = wanted
        self.rows, self.scores = np.empty((queries, wanted), np.int64), np.empty((queries, wanted), np.float32)
        self.ranked = np.empty((1, wanted), np.int64)
        self.rows_at, self.scores_at = faiss.swig_ptr(self.rows), faiss.swig_ptr(self.scores)
        self.ranked_at = faiss.swig_ptr(self.ranked)


def train(vectors: Vectors, factory: str, centroids: Vectors | None = None) -> Any:
    """A FAISS index of `factory` over unit rows [n, dim], trained on a sample of them where it needs training.

    `PCA48,` before the rest of the factory keeps of each row its projection on the 48 directions that hold most of all
    rows, which is all that most catalogues fill; what is lost, exact scores put right. `centroids` [lists, dim] are
    those of an inverted file with the same split, which saves finding them again.
    """
    dim, body = parse_projection(factory)
    projection = principal_axes(vectors)[0][:, :dim] if dim else None
    dim = dim or vectors.shape[1]

    def seen(rows: Vectors) -> Vectors:
        return np.ascontiguousarray(rows if projection is None else rows @ projection)

    index = faiss.index_factory(dim, body, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexIVF) and "_HNSW" in body:
        # Lists are few and far apart: half of FAISS's own width finds 99 of 100 of the nearest in 8 µs less.
        faiss.downcast_index(index.quantizer).hnsw.efSearch = COARSE_WIDTH
    where = gpu.gpu()
    if centroids is not None:
        index.quantizer.add(centroids)
    elif where is not None and isinstance(index, faiss.IndexIVF):
        # Finding centroids is nearly all of the work; FAISS does it with whichever flat index it is given.
        finder = where.upload(faiss.IndexFlatIP(dim))
        index.clustering_index = finder
    if not index.is_trained:
        sample = min(len(vectors), max(ROWS_A_CENTROID * getattr(index, "nlist", 0), MIN_TRAINED))
        chosen = np.sort(np.random.default_rng(0).choice(len(vectors), sample, replace=False))
        index.train(seen(vectors[chosen]))
    for start in range(0, len(vectors), 1 << 16):
        index.add(seen(vectors[start : start + (1 << 16)]))
    return index if projection is None else _wrap(index, projection)


def principal_axes(vectors: Vectors) -> tuple[Vectors, NDArray[np.float32]]:
    """Directions [dim, dim], as columns, and what share of the squared length of rows [n, dim] the first hold, [dim].

    Not of rows less their mean, as FAISS's PCA has it: this keeps inner products, which the mean is part of.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(vectors))[:SPANNED])
    rows = vectors[chosen].astype(np.float64)
    held, axes = np.linalg.eigh(rows.T @ rows)
    held = np.maximum(held[::-1], 0)
    return np.ascontiguousarray(axes[:, ::-1], np.float32), np.cumsum(held / held.sum()).astype(np.float32)


def unwrap(index: Any) -> tuple[Any, Vectors | None]:
    """The index that searches, and the projection [dim, d] of rows and queries before it, if there is one."""
    if not isinstance(index, faiss.IndexPreTransform):
        return index, None
    linear = faiss.downcast_VectorTransform(index.chain.at(0))
    axes = faiss.vector_to_array(linear.A).reshape(linear.d_out, linear.d_in)
    return faiss.downcast_index(index.index), np.ascontiguousarray(axes.T)


def _wrap(index: Any, projection: Vectors) -> Any:
    linear = faiss.LinearTransform(*projection.shape, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(projection.T).ravel(), linear.A)
    linear.is_trained = True
    return faiss.IndexPreTransform(linear, index)


def write(index: Any, path: Path) -> None:
    """Write a FAISS index as one file."""
    faiss.write_index(index, str(path))


def read(path: Path, rows: int, dim: int) -> Any:
    """Memory-map an index and check that it is the one expected; raises Missing or Damaged naming the file."""
    if not path.is_file():
        raise Missing(f"{path} is missing", path.name)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise Damaged(f"{path} is not a whole FAISS index ({str(error).splitlines()[0]})", path.name) from error
    if (index.ntotal, index.d) != (rows, dim):
        raise Damaged(f"{path} holds {index.ntotal} vectors of {index.d}, expected {rows} of {dim}", path.name)
    return index
