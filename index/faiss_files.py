"""Train, write and read FAISS indexes."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index import gpu
from index.errors import IndexDamaged, IndexMissing
from index.index_types import parse_projection
from index.space import Vectors

TRAINING_ROWS_PER_CENTROID = 48  # k-means needs at least 39
MIN_TRAINING_ROWS = 1 << 14
COARSE_EF_SEARCH = 8  # search width of the graph over centroids
MAX_AXES_ROWS = 20_000  # rows used to compute the axes of a projection
ADD_ROWS = 1 << 16  # rows added at once


def train_index(vectors: Vectors, factory: str, centroids: Vectors | None = None) -> Any:
    """Build a FAISS index over unit rows [n, dim], trained on a sample of them if its type needs training.

    Args:
        vectors: The rows, [n, dim].
        factory: A FAISS factory string. `PCA48,` before the rest projects each row on the 48 directions that keep most
            of all rows, which is all that most catalogues use; exact scores correct what the projection loses.
        centroids: The centroids [lists, dim] of an inverted file with the same lists, which saves computing them.
    """
    dim, body = parse_projection(factory)
    projection = principal_axes(vectors)[0][:, :dim] if dim else None
    dim = dim or vectors.shape[1]

    def project(rows: Vectors) -> Vectors:
        return np.ascontiguousarray(rows if projection is None else rows @ projection)

    index = faiss.index_factory(dim, body, faiss.METRIC_INNER_PRODUCT)
    if isinstance(index, faiss.IndexIVF) and "_HNSW" in body:
        # There are few centroids, far apart: half of FAISS's default width finds 99 of the 100 nearest in 8 µs less.
        faiss.downcast_index(index.quantizer).hnsw.efSearch = COARSE_EF_SEARCH
    device = gpu.find_gpu()
    if centroids is not None:
        index.quantizer.add(centroids)
    elif device is not None and isinstance(index, faiss.IndexIVF):
        # K-means is nearly all of the work, and FAISS runs it on any flat index that it is given. The name keeps
        # the GPU index alive until training ends.
        clustering_index = device.upload(faiss.IndexFlatIP(dim))
        index.clustering_index = clustering_index
    if not index.is_trained:
        sample = min(len(vectors), max(TRAINING_ROWS_PER_CENTROID * getattr(index, "nlist", 0), MIN_TRAINING_ROWS))
        chosen = np.sort(np.random.default_rng(0).choice(len(vectors), sample, replace=False))
        index.train(project(vectors[chosen]))
    for start in range(0, len(vectors), ADD_ROWS):
        index.add(project(vectors[start : start + ADD_ROWS]))
    return index if projection is None else _add_projection(index, projection)


def principal_axes(vectors: Vectors) -> tuple[Vectors, NDArray[np.float32]]:
    """Compute the principal axes of rows [n, dim].

    The mean is not subtracted, unlike in FAISS's PCA: this preserves inner products, which the mean is part of.

    Returns:
        The axes as columns, [dim, dim], and the share of the squared length that the first axes keep, [dim].
    """
    chosen = np.sort(np.random.default_rng(0).permutation(len(vectors))[:MAX_AXES_ROWS])
    rows = vectors[chosen].astype(np.float64)
    lengths, axes = np.linalg.eigh(rows.T @ rows)
    lengths = np.maximum(lengths[::-1], 0)
    return np.ascontiguousarray(axes[:, ::-1], np.float32), np.cumsum(lengths / lengths.sum()).astype(np.float32)


def split_projection(index: Any) -> tuple[Any, Vectors | None]:
    """Return the index that searches, and the projection [dim, d] of rows and queries before it, if there is one."""
    if not isinstance(index, faiss.IndexPreTransform):
        return index, None
    linear = faiss.downcast_VectorTransform(index.chain.at(0))
    axes = faiss.vector_to_array(linear.A).reshape(linear.d_out, linear.d_in)
    return faiss.downcast_index(index.index), np.ascontiguousarray(axes.T)


def _add_projection(index: Any, projection: Vectors) -> Any:
    linear = faiss.LinearTransform(*projection.shape, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(projection.T).ravel(), linear.A)
    linear.is_trained = True
    return faiss.IndexPreTransform(linear, index)


def write_index(index: Any, path: Path) -> None:
    """Write a FAISS index to one file."""
    faiss.write_index(index, str(path))


def read_index(path: Path, rows: int, dim: int) -> Any:
    """Memory-map an index and check its size; raises IndexMissing or IndexDamaged, which name the file."""
    if not path.is_file():
        raise IndexMissing(f"{path} is missing", path.name)
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise IndexDamaged(f"{path} is not a complete FAISS index ({reason})", path.name) from error
    if (index.ntotal, index.d) != (rows, dim):
        raise IndexDamaged(f"{path} holds {index.ntotal} vectors of {index.d}, expected {rows} of {dim}", path.name)
    return index


def serialized_size(index: Any) -> int:
    """Compute the size of an index as a file, in bytes, without writing one."""
    total = 0

    def count(block: bytes) -> None:
        nonlocal total
        total += len(block)

    faiss.write_index(index, faiss.PyCallbackIOWriter(count))
    return total
