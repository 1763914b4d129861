"""Features of retrievers: the score of a candidate by each one, and its rank among all candidates."""

from collections.abc import Mapping, Sequence

import numpy as np

from serve.recommend.ranking.feature import FeatureColumn, FeatureInputs, ShopSchema, scale_score
from serve.recommend.retrieval.linear_score_model import without_interactions
from serve.recommend.retrieval.retriever import RetrieverSpec, Scores
from serve.recommend.retrieval.retriever_registry import RETRIEVERS, is_count


class RetrieverScores:
    """The score by each retriever, named after it."""

    def columns(self, schema: ShopSchema) -> Sequence[FeatureColumn]:
        return [FeatureColumn(spec.name, spec.group) for spec in _specs(schema)]

    def compute(self, inputs: FeatureInputs) -> Mapping[str, Scores | float]:
        scores = _known_scores(inputs)
        return {name: scale_score(name, values[inputs.rows], inputs.smoothing) for name, values in scores.items()}


class RetrieverRanks:
    """The logarithm of the rank by each retriever; ties share the first rank."""

    def columns(self, schema: ShopSchema) -> Sequence[FeatureColumn]:
        return [FeatureColumn(f"{spec.name}_rank", spec.group) for spec in _specs(schema)]

    def compute(self, inputs: FeatureInputs) -> Mapping[str, Scores | float]:
        return {f"{name}_rank": _ranks(values)[inputs.rows] for name, values in _known_scores(inputs).items()}


FEATURES = (RetrieverScores(), RetrieverRanks())


def _specs(schema: ShopSchema) -> list[RetrieverSpec]:
    return [spec for spec in RETRIEVERS.values() if schema.related or not spec.needs_relations]


def _known_scores(inputs: FeatureInputs) -> dict[str, Scores]:
    """Return the scores of all candidates by retriever; NaN for counts of items without any event."""
    candidates = inputs.candidates
    new = without_interactions(candidates.scores, len(candidates))
    known = {}
    for name in RETRIEVERS:
        if name in candidates.scores:
            scores = candidates.scores[name]
            # That nobody had an item yet does not say that nobody wants it.
            known[name] = np.where(new, np.nan, scores).astype(np.float32) if is_count(name) and new.any() else scores
    return known


def _ranks(scores: Scores) -> Scores:
    falling = np.sort(-scores)  # NaN comes last
    return np.where(np.isnan(scores), np.nan, np.log2(2 + np.searchsorted(falling, -scores))).astype(np.float32)
