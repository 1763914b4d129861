"""FAISS search: the index proposes rows, exact scores order them, items come out once."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.errors import Damaged
from index.exact import ExactIndex, best_rows, empty_hits, exact_search, write_top
from index.space import Allowed, Hits, Owners, Space, Vectors, check_queries

REFINE = 2  # rows proposed for each asked: what quantisation puts in the wrong order, exact scores put right
NARROW = 0.1  # below this share of allowed rows exact search is both faster and complete


class FaissIndex(ExactIndex):
    """Rows [n, dim] in a FAISS index beside the vectors themselves, both usually memory-mapped.

    `effort` is the family's search parameter: `nprobe` of IVF, `efSearch` of HNSW, nothing for Flat.
    """

    def __init__(
        self, space: Space, index: Any, vectors: Vectors, owners: Owners, labels: Owners, items: int, effort: int
    ) -> None:
        super().__init__(space, vectors, owners, labels, items)
        self.effort = effort
        self._index = index
        self._one_row_each = len(owners) == 0 or bool((np.diff(owners) > 0).all())
        self._exact_family = isinstance(index, faiss.IndexFlat)
        self.lists = int(index.nlist) if isinstance(index, faiss.IndexIVF) else 0

    def search(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> Hits:
        """The k best items for each of q queries [q, dim], ties by item number; `allowed` [items] limits them.

        Always k items where k are allowed: if the index proposes too few, the query is answered by exact search.
        """
        queries = check_queries(queries, self.space.dim, k)
        rows_allowed = None if allowed is None else allowed[self.owners]
        reachable = len(self.owners) if rows_allowed is None else int(rows_allowed.sum())
        if allowed is not None and reachable < NARROW * len(self.owners):
            return exact_search(self.vectors, self.owners, queries, k, allowed)
        wanted = k if self._one_row_each else k + k * len(self.owners) // max(1, self.items)
        wanted = min(reachable, wanted if self._exact_family else REFINE * wanted)
        hits = empty_hits(len(queries), k)
        if not wanted:
            return hits
        # The selector keeps a pointer to the bits, so they must live as long as it does.
        bits = None if rows_allowed is None else np.packbits(rows_allowed, bitorder="little")
        parameters = self._parameters(wanted, None if bits is None else faiss.IDSelectorBitmap(bits))
        _, proposed = self._index.search(queries, wanted, params=parameters)
        for query, rows in enumerate(proposed):
            self._answer(hits, query, queries[query], np.sort(rows[rows >= 0]), k)
            if hits.counts[query] < k and len(rows) < reachable:
                exact = exact_search(self.vectors, self.owners, queries[query : query + 1], k, allowed)
                hits.ids[query], hits.scores[query], hits.rows[query] = exact.ids[0], exact.scores[0], exact.rows[0]
                hits.counts[query] = exact.counts[0]
        return hits

    def _answer(self, hits: Hits, query: int, vector: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> None:
        owners = self.owners[rows]
        best, scores = best_rows(self.vectors[rows] @ vector, owners)
        write_top(hits, query, owners[best], scores, rows[best], k)

    def _parameters(self, wanted: int, selector: Any) -> Any:
        if isinstance(self._index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(nprobe=self.effort, sel=selector)
        if isinstance(self._index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=max(self.effort, wanted), sel=selector)
        return faiss.SearchParameters(sel=selector)


def train(vectors: Vectors, factory: str) -> Any:
    """A FAISS index of `factory` over unit rows [n, dim]. IVF is trained on at most 64 rows a centroid."""
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        sample = min(len(vectors), 64 * index.nlist)
        chosen = np.sort(np.random.default_rng(0).choice(len(vectors), sample, replace=False))
        index.train(vectors[chosen])
    for start in range(0, len(vectors), 1 << 16):
        index.add(np.ascontiguousarray(vectors[start : start + (1 << 16)]))
    return index


def write(index: Any, path: Path) -> None:
    """Write a FAISS index as one file."""
    faiss.write_index(index, str(path))


def read(path: Path, rows: int, dim: int) -> Any:
    """Memory-map an index and check that it is the one expected; raises Damaged naming the file."""
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise Damaged(f"{path} is not a whole FAISS index ({str(error).splitlines()[0]})", path.name) from error
    if (index.ntotal, index.d) != (rows, dim):
        raise Damaged(f"{path} holds {index.ntotal} vectors of {index.d}, expected {rows} of {dim}", path.name)
    return index


def flat_vectors(index: Any) -> Vectors:
    """The vectors inside a Flat index, [n, dim], without a copy; valid while the index lives."""
    view: Vectors = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d).reshape(index.ntotal, index.d)
    return view


def limit_threads(threads: int) -> None:
    """Cap the threads of one FAISS call."""
    faiss.omp_set_num_threads(threads)
