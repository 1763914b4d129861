"""The families of indexes, as FAISS's factory strings name them: which are worth trying, and what a name says."""

import math
import re
from collections.abc import Sequence

TRAINING = 39  # rows for each centroid that k-means wants at the least


def candidates(rows: int, dim: int, narrow: Sequence[int] = ()) -> list[str]:
    """FAISS factory strings worth trying on so many rows: those with no more centroids than the rows can train.

    `narrow` are numbers of values, fewer than `dim`, that hold nearly all that rows have.
    """
    found = ["Flat"]
    for centroids in sorted({_power_of_two(factor * rows**0.5) for factor in (1, 2, 4, 8)}):
        if TRAINING * centroids <= rows:
            coarse = f"IVF{centroids}_HNSW32" if centroids >= 512 else f"IVF{centroids}"
            found += [f"{coarse},SQ8", f"{coarse},SQfp16", f"{coarse},RaBitQfs"]
            if dim % 4 == 0:
                found.append(f"{coarse},PQ{dim // 4}x4fs")
            found += [f"PCA{width},{coarse},SQ8" for width in narrow]
    return [*found, "HNSW32", "HNSW32,SQ8"]


def parse_projection(factory: str) -> tuple[int, str]:
    """To how many values a factory projects rows first, 0 for not at all, and the rest of it."""
    first, _, rest = factory.partition(",")
    return (int(first[3:]), rest) if first.startswith("PCA") else (0, factory)


def refines(factory: str) -> tuple[float, ...]:
    """Rows proposed for each asked for, by how coarsely the family keeps them."""
    if "RaBitQ" in factory or "PQ" in factory:
        return (3, 5, 10)
    if factory.startswith("PCA"):
        return (1.5, 2, 3)
    return (1, 2) if "SQ8" in factory else (1,)


def split(factory: str) -> str:
    """The part of a factory that says how it splits the space into lists; empty where it does not."""
    return factory.rpartition(",")[0] if body(factory).startswith("IVF") else ""


def body(factory: str) -> str:
    """The factory without its projection."""
    return parse_projection(factory)[1]


def scaled(factory: str, share: float) -> str:
    """The factory with as many fewer centroids as the sample has rows."""
    return re.sub(r"IVF(\d+)", lambda count: f"IVF{max(1, round(int(count[1]) * share))}", factory)


def bytes_a_vector(factory: str, dim: int) -> float:
    """About how many bytes a vector takes: enough to leave out what can never fit."""
    dim, factory = parse_projection(factory)[0] or dim, body(factory)
    code = {"SQ8": dim, "SQfp16": 2 * dim, "RaBitQfs": dim / 8 + 8}.get(factory.rpartition(",")[2], 4 * dim)
    if "PQ" in factory:
        code = dim / 8
    return code + 8 if factory.startswith("IVF") else code + 256 * factory.startswith("HNSW")


def _power_of_two(number: float) -> int:
    return 1 << round(math.log2(number))
