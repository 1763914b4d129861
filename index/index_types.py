"""Index types, named by FAISS factory strings: which are worth trying, and what a factory string means."""

import math
import re
from collections.abc import Sequence

MIN_ROWS_PER_CENTROID = 39  # rows that k-means needs for each centroid


def candidate_factories(rows: int, dim: int, narrow: Sequence[int] = ()) -> list[str]:
    """List the FAISS factory strings worth trying, without those that need more centroids than the rows can train.

    Args:
        rows: The number of rows of the index.
        dim: The number of values of a row.
        narrow: Numbers of values below `dim` that keep nearly all of the rows' squared length.
    """
    factories = ["Flat"]
    for centroids in sorted({_nearest_power_of_two(factor * rows**0.5) for factor in (1, 2, 4, 8)}):
        if MIN_ROWS_PER_CENTROID * centroids <= rows:
            coarse = f"IVF{centroids}_HNSW32" if centroids >= 512 else f"IVF{centroids}"
            factories += [f"{coarse},SQ8", f"{coarse},SQfp16", f"{coarse},RaBitQfs"]
            if dim % 4 == 0:
                factories.append(f"{coarse},PQ{dim // 4}x4fs")
            factories += [f"PCA{width},{coarse},SQ8" for width in narrow]
    return [*factories, "HNSW32", "HNSW32,SQ8"]


def parse_projection(factory: str) -> tuple[int, str]:
    """Return to how many values a factory projects rows first (0 without a projection), and the rest of the factory."""
    first, _, rest = factory.partition(",")
    return (int(first[3:]), rest) if first.startswith("PCA") else (0, factory)


def refine_factors(factory: str) -> tuple[float, ...]:
    """Return how many rows to propose for each requested one: more, the more coarsely the index type stores rows."""
    if "RaBitQ" in factory or "PQ" in factory:
        return (3, 5, 10)
    if factory.startswith("PCA"):
        return (1.5, 2, 3)
    return (1, 2) if "SQ8" in factory else (1,)


def coarse_part(factory: str) -> str:
    """Return the part of a factory that splits the space into inverted lists; empty if it has none."""
    return factory.rpartition(",")[0] if without_projection(factory).startswith("IVF") else ""


def without_projection(factory: str) -> str:
    """Return the factory without its projection."""
    return parse_projection(factory)[1]


def scale_centroids(factory: str, share: float) -> str:
    """Return the factory with the number of centroids multiplied by `share`, for a sample of the rows."""
    return re.sub(r"IVF(\d+)", lambda count: f"IVF{max(1, round(int(count[1]) * share))}", factory)


def estimate_bytes_per_vector(factory: str, dim: int) -> float:
    """Estimate the bytes of a vector, well enough to skip index types that can never fit the memory budget."""
    dim, factory = parse_projection(factory)[0] or dim, without_projection(factory)
    code = {"SQ8": dim, "SQfp16": 2 * dim, "RaBitQfs": dim / 8 + 8}.get(factory.rpartition(",")[2], 4 * dim)
    if "PQ" in factory:
        code = dim / 8
    return code + 8 if factory.startswith("IVF") else code + 256 * factory.startswith("HNSW")


def _nearest_power_of_two(value: float) -> int:
    return 1 << round(math.log2(value))
