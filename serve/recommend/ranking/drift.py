"""Drift: how far shown items have moved from what the release showed when it was made, feature by feature.

The population stability index of a feature, over its deciles at that time and a bin of unknown values:

    PSI = sum over bins of (share now - share then) * log(share now / share then)

By convention a value below 0.1 means the same population, above 0.25 another one (Siddiqi, "Credit Risk Scorecards",
2006). It shows that the scorer now sees other inputs than it learned from, before outcomes can show it.
"""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from serve.recommend.ranking.feature_builder import FeatureLayout

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
BINS = 10
MIN_SHARE = 1e-3  # of a bin, so that an empty one does not make the index infinite
MIN_ROWS = 500  # below which there is no index
WINDOW_ROWS = 20_000.0  # rows that count at a time: older ones fade
UNWATCHED = ("hour_sine", "hour_cosine", "position")  # columns that depend on when and where an item is shown
SCORE = "score"


class DriftReference(BaseModel):
    """What was shown when a release was made.

    `edges` separate the BINS bins of each column. `shares` are the shares of the bins, and of unknown values as one bin
    more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: list[str]
    edges: list[list[float]]
    shares: list[list[float]]

    @classmethod
    def measure(cls, layout: FeatureLayout, values: Floats, scores: Floats) -> "DriftReference":
        """Measure n shown items by their features [n, columns] and scores [n]."""
        columns = [name for name in layout.names if name not in UNWATCHED] + [SCORE]
        watched = _select_watched(_column_indices(layout.names, columns), values, scores)
        quantiles = np.linspace(0, 1, BINS + 1)[1:-1]
        edges = [
            np.quantile(known, quantiles).astype(np.float32).tolist() if len(known := column[~np.isnan(column)]) else []
            for column in watched.T
        ]
        edges = [of_column or [0.0] * (BINS - 1) for of_column in edges]
        counts = _count_bins(watched, np.array(edges, np.float32))
        return cls(columns=columns, edges=edges, shares=(counts / max(1, len(watched))).tolist())


class DriftIndex:
    """Compares what is shown now with a reference; safe in several threads."""

    def __init__(self, reference: DriftReference, names: Sequence[str]) -> None:
        """`names` are the columns of the features that `record` gets."""
        self._reference, self._column_indices = reference, _column_indices(names, reference.columns)
        self._edges = np.array(reference.edges, np.float32)
        self._counts = np.zeros((len(reference.columns), BINS + 1))
        self._lock = threading.Lock()

    def record(self, values: Floats, scores: Floats) -> None:
        """Record n shown items by their features [n, columns] and scores [n]."""
        counts = _count_bins(_select_watched(self._column_indices, values, scores), self._edges)
        with self._lock:
            self._counts *= 1 - min(1.0, len(values) / WINDOW_ROWS)
            self._counts += counts

    def indices(self) -> dict[str, float]:
        """Return the population stability index of each column; empty before MIN_ROWS rows."""
        with self._lock:
            counts = self._counts.copy()
        rows = counts.sum(1, keepdims=True)
        if rows[0, 0] < MIN_ROWS:
            return {}
        now, then = (np.maximum(shares, MIN_SHARE) for shares in (counts / rows, np.array(self._reference.shares)))
        indices = ((now - then) * np.log(now / then)).sum(1)
        return dict(zip(self._reference.columns, indices.tolist(), strict=True))


def _column_indices(names: Sequence[str], columns: Sequence[str]) -> list[int]:
    return [names.index(name) for name in columns if name != SCORE]


def _select_watched(column_indices: list[int], values: Floats, scores: Floats) -> Floats:
    """Return the watched columns, the score last, [n, watched]."""
    return np.concatenate([values[:, column_indices], scores[:, None]], 1)


def _count_bins(watched: Floats, edges: Floats) -> Doubles:
    """Count how many of n values are in each bin of each column, [columns, BINS + 1]."""
    bins = (watched[:, :, None] > edges[None]).sum(2)  # [n, columns]
    bins[np.isnan(watched)] = BINS
    counts = np.zeros((watched.shape[1], BINS + 1))
    np.add.at(counts, (np.broadcast_to(np.arange(watched.shape[1]), bins.shape), bins), 1)
    return counts
