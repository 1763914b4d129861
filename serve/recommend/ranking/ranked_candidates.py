"""Ranked candidates: what a pipeline returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serve.recommend.ranking.feature_builder import FeatureMatrix
from serve.recommend.ranking.scorer import ScorerOutput
from serve.recommend.retrieval.candidates import Candidates

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RelevanceMix:
    """A search score of m candidates: `query` [m] + `shift` + `factor` times the expected value."""

    query: Floats
    shift: float
    factor: float

    def take(self, rows: NDArray[np.int64]) -> "RelevanceMix":
        """Return the mix of some candidates, in that order."""
        return RelevanceMix(self.query[rows], self.shift, self.factor)


@dataclass(frozen=True)
class RankedCandidates:
    """m candidates in their final order.

    Attributes:
        candidates: The candidates.
        output: The scorer's output, if a scorer ranked; NaN for candidates that it did not score.
        features: The features of the scored candidates, in another order.
        feature_rows: The row [m] of each candidate in `features`, -1 for none.
        rules: By item index, the names of the rules that acted on an item.
        mix: How the relevance to a query enters the scores, if there was a query.
        propensities: The probability [m] of each candidate at its position, given those before it; NaN for unknown,
            None if the order was not random.
    """

    candidates: Candidates
    output: ScorerOutput | None = None
    features: FeatureMatrix | None = None
    feature_rows: NDArray[np.int64] | None = None
    rules: Mapping[int, Sequence[str]] = field(default_factory=dict)
    mix: RelevanceMix | None = None
    propensities: Floats | None = None

    def __len__(self) -> int:
        return len(self.candidates)

    @property
    def items(self) -> NDArray[np.int64]:
        """The item indices, [m]."""
        return self.candidates.items

    def take(self, rows: NDArray[np.int64]) -> "RankedCandidates":
        """Return the candidates at some rows, in that order."""
        return RankedCandidates(
            self.candidates.take(rows),
            None if self.output is None else self.output.take(rows),
            self.features,
            None if self.feature_rows is None else self.feature_rows[rows],
            self.rules,
            None if self.mix is None else self.mix.take(rows),
            None if self.propensities is None else self.propensities[rows],
        )

    def scored_features(self) -> FeatureMatrix | None:
        """Return the features of all m candidates, in their order; None unless a scorer scored all of them."""
        if self.features is None or self.feature_rows is None or (self.feature_rows < 0).any():
            return None
        return self.features.take(self.feature_rows)
