"""Rows of vectors and index folders for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index import index_folder, tuning
from index.exact_index import ExactIndex
from index.space import Space

DIM = 16


def unit(rows: Any) -> Any:
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(count: int, dim: int = DIM, seed: int = 0) -> Any:
    """Rows around centres that are the same for every seed, as queries and items of one shop are."""
    centres = np.random.default_rng(99).standard_normal((24, dim))
    generator = np.random.default_rng(seed)
    return unit(centres[generator.integers(24, size=count)] + 0.5 * generator.standard_normal((count, dim)))


def put(rows: Any) -> Callable[[Any], None]:
    def fill(out: Any) -> None:
        out[:] = rows

    return fill


def build_folder(
    folder: Path, rows: Any, factories: tuple[str, ...] = ("IVF16,SQ8",), earlier: Any = None, **limits: Any
) -> tuple[ExactIndex, index_folder.IndexReport]:
    """An index over `rows` as a build makes it where only these factories can be chosen; labels are 1000 + the row."""
    owners = np.arange(len(rows), dtype=np.int32)
    space = Space("image", rows.shape[1], "abcd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "MAX_FLAT_ROWS", 100)
        patch.setattr(tuning, "candidate_factories", lambda *_: list(factories))
        report = index_folder.build_index(
            folder, space, owners, owners + 1000, len(rows), put(rows), earlier=earlier, **limits
        )
    index = index_folder.open_index(folder)
    assert isinstance(index, ExactIndex)
    assert index_folder.read_report(folder) == report
    sample = index_folder.open_sample(folder)
    assert len(sample) == min(index_folder.SAMPLE_ROWS, report.rows)
    assert {row.tobytes() for row in sample} <= {row.tobytes() for row in index.vectors}
    return index, report
