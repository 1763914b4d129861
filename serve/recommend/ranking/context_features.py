"""Features of the circumstances: the hour, the length of the history, the position in the list."""

from collections.abc import Mapping, Sequence

import numpy as np

from serve.recommend.feature_groups import CONTEXT, POSITION
from serve.recommend.ranking.feature import FeatureColumn, FeatureInputs, ShopSchema
from serve.recommend.retrieval.retriever import Scores


class Circumstances:
    """The hour of the day on a circle, and the logarithm of the number of interactions."""

    def columns(self, schema: ShopSchema) -> Sequence[FeatureColumn]:
        return [FeatureColumn(name, CONTEXT) for name in ("hour_sine", "hour_cosine", "history")]

    def compute(self, inputs: FeatureInputs) -> Mapping[str, Scores | float]:
        values = {"history": float(np.log2(1 + len(inputs.user)))}
        if inputs.context.hour is not None:
            angle = 2 * np.pi * inputs.context.hour / 24
            values |= {"hour_sine": float(np.sin(angle)), "hour_cosine": float(np.cos(angle))}
        return values


class ListPosition:
    """The logarithm of the position at which a candidate was shown.

    A request scores all candidates at the usual position instead, so that a position is not taken for merit.
    """

    def columns(self, schema: ShopSchema) -> Sequence[FeatureColumn]:
        return [FeatureColumn("position", POSITION)]

    def compute(self, inputs: FeatureInputs) -> Mapping[str, Scores | float]:
        position = inputs.context.position
        return {} if position is None else {"position": np.log2(1 + position)}


FEATURES = (Circumstances(), ListPosition())
