"""FAISS search: the index proposes rows, exact scores order them, items come out once."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from index.errors import Damaged, Missing
from index.exact import ExactIndex, best_rows, empty_hits, record, top
from index.space import Allowed, Hits, Owners, Space, Vectors, check_queries

REFINE = 2  # rows proposed for each asked: what quantisation puts in the wrong order, exact scores put right
NARROW = 0.1  # below this share of allowed rows exact search is both faster and complete


class FaissIndex(ExactIndex):
    """Rows [n, dim] in a FAISS index beside the vectors themselves, both usually memory-mapped.

    `effort` is the family's search parameter: `nprobe` of IVF, `efSearch` of HNSW, nothing for Flat.
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
        effort: int,
    ) -> None:
        super().__init__(space, vectors, owners, labels, items)
        self.factory = factory
        self.effort = effort
        self.lists = int(index.nlist) if isinstance(index, faiss.IndexIVF) else 0
        self._index = index

    def search(self, queries: Vectors, k: int, allowed: Allowed | None = None) -> Hits:
        """The k best items for each of q queries [q, dim], ties by item number; `allowed` [items] limits them.

        Always k items where k are allowed: if the index proposes too few, the query is answered by exact search.
        """
        queries = check_queries(queries, self.space.dim, k)
        rows_allowed = None if allowed is None else allowed[self.owners]
        reachable = len(self.owners) if rows_allowed is None else int(rows_allowed.sum())
        wanted = min(reachable, REFINE * (k if self._one_row_each else k + k * len(self.owners) // self.items))
        if wanted == reachable or reachable < NARROW * len(self.owners):
            return super().search(queries, k, allowed)
        # The selector keeps a pointer to the bits, so they must live as long as it does.
        bits = None if rows_allowed is None else np.packbits(rows_allowed, bitorder="little")
        parameters = self._parameters(wanted, None if bits is None else faiss.IDSelectorBitmap(bits))
        _, proposed = self._index.search(queries, wanted, params=parameters)
        hits = empty_hits(len(queries), k)
        for query, found in enumerate(proposed):
            rows = found[found >= 0]
            scores = self.vectors[rows] @ queries[query]
            if not self._one_row_each:
                best = best_rows(scores, self.owners[rows])
                rows, scores = rows[best], scores[best]
            order = top(scores, self.owners[rows], k)
            if len(order) < k:
                exact = super().search(queries[query : query + 1], k, allowed)
                record(hits, query, exact.ids[0], exact.scores[0], exact.rows[0])
                hits.counts[query] = exact.counts[0]
            else:
                record(hits, query, self.owners[rows[order]], scores[order], rows[order])
        return hits

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
