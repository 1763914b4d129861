"""Drift: how far what is shown has moved from what the release showed when it was made, feature by feature.

The population stability index of a feature, over the tenths of what it was then and what is not known:

    PSI = sum over bins of (share now - share then) * log(share now / share then)

By custom under 0.1 is the same, over 0.25 another population (Siddiqi, "Credit Risk Scorecards", 2006). It says that
what the scorer learned from is not what it is asked about any more, before anybody can know how that turned out.
"""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from serve.recommend.ranking.feature_builder import Layout

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
BINS = 10
MIN_SHARE = 1e-3  # of a bin, so that an empty one does not make the index infinite
FEWEST = 500  # rows, below which nothing is said
REMEMBERED = 20_000.0  # rows that are seen at a time: the older ones fade
CLOCK = ("hour_sine", "hour_cosine", "position")  # these differ by when and where, not by what
SCORE = "score"


class Reference(BaseModel):
    """What was shown when a release was made: of each column the `edges` of BINS bins, and the share in each bin.

    `shares` has one bin more, of what is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: list[str]
    edges: list[list[float]]
    shares: list[list[float]]

    @classmethod
    def of(cls, layout: Layout, values: Floats, scores: Floats) -> "Reference":
        """That of n items shown, by their features [n, columns] and scores [n]."""
        columns = [name for name in layout.names if name not in CLOCK] + [SCORE]
        told = _told(_places(layout.names, columns), values, scores)
        quantiles = np.linspace(0, 1, BINS + 1)[1:-1]
        edges = [
            np.quantile(known, quantiles).astype(np.float32).tolist() if len(known := of[~np.isnan(of)]) else []
            for of in told.T
        ]
        edges = [of or [0.0] * (BINS - 1) for of in edges]
        counts = _counted(told, np.array(edges, np.float32))
        return cls(columns=columns, edges=edges, shares=(counts / max(1, len(told))).tolist())


class Drift:
    """What is shown now, beside a reference; safe in several threads."""

    def __init__(self, reference: Reference, names: Sequence[str]) -> None:
        """`names` are all columns of the features that will be given."""
        self._reference, self._places = reference, _places(names, reference.columns)
        self._edges = np.array(reference.edges, np.float32)
        self._counts = np.zeros((len(reference.columns), BINS + 1))
        self._lock = threading.Lock()

    def shown(self, values: Floats, scores: Floats) -> None:
        """n items were shown: their features [n, columns] and scores [n]."""
        counts = _counted(_told(self._places, values, scores), self._edges)
        with self._lock:
            self._counts *= 1 - min(1.0, len(values) / REMEMBERED)
            self._counts += counts

    def indices(self) -> dict[str, float]:
        """The population stability index of each column, nothing before FEWEST rows were shown."""
        with self._lock:
            counts = self._counts.copy()
        rows = counts.sum(1, keepdims=True)
        if rows[0, 0] < FEWEST:
            return {}
        now, then = (np.maximum(of, MIN_SHARE) for of in (counts / rows, np.array(self._reference.shares)))
        found = ((now - then) * np.log(now / then)).sum(1)
        return dict(zip(self._reference.columns, found.tolist(), strict=True))


def _places(names: Sequence[str], columns: Sequence[str]) -> list[int]:
    return [names.index(name) for name in columns if name != SCORE]


def _told(places: list[int], values: Floats, scores: Floats) -> Floats:
    """The columns that are watched, the score last, [n, watched]."""
    return np.concatenate([values[:, places], scores[:, None]], 1)


def _counted(told: Floats, edges: Floats) -> Doubles:
    """How many of n values are in each bin of each column, [columns, BINS + 1]."""
    bins = (told[:, :, None] > edges[None]).sum(2)  # [n, columns]
    bins[np.isnan(told)] = BINS
    counts = np.zeros((told.shape[1], BINS + 1))
    np.add.at(counts, (np.broadcast_to(np.arange(told.shape[1]), bins.shape), bins), 1)
    return counts
