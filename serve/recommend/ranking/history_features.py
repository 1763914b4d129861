"""Features of the history: how much candidates have in common with the items that the user liked recently.

For each channel (likeness in a space, co-visits, shared categories, brand and attributes) there are three statistics:
the largest value, the mean with recent interactions weighted more, and the value for the latest interaction.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from serve.recommend.feature_groups import CONTENT, OTHERS, PERSONALIZATION, RANGE, FeatureGroup
from serve.recommend.ranking.feature import FeatureColumn, FeatureInputs, ShopSchema
from serve.recommend.ranking.item_signals import TAG_GROUPS
from serve.recommend.retrieval.retriever import TOWER, Scores

FADE = 0.8  # weight of an interaction in means, relative to the next later one
STATISTICS = ("most", "mean", "last")


class HistorySimilarity:
    """The statistics of every channel."""

    def columns(self, schema: ShopSchema) -> Sequence[FeatureColumn]:
        return [
            FeatureColumn(f"{channel}_{statistic}", _group(channel))
            for channel in schema.channels
            for statistic in STATISTICS
        ]

    def compute(self, inputs: FeatureInputs) -> Mapping[str, Scores | float]:
        liked = inputs.recent.weight > 0
        if not liked.any():
            return {}
        worth = (FADE ** np.arange(int(liked.sum())))[::-1].astype(np.float32)
        pairs = inputs.pairs[:, liked]  # [m, liked, p]
        statistics = pairs.max(1), np.einsum("mhp,h->mp", pairs, worth / worth.sum()), pairs[:, -1]
        return {
            f"{channel}_{name}": values[:, column]
            for name, values in zip(STATISTICS, statistics, strict=True)
            for column, channel in enumerate(inputs.schema.channels)
        }


FEATURES = (HistorySimilarity(),)


def _group(channel: str) -> FeatureGroup:
    if channel == TOWER:
        return PERSONALIZATION
    if channel == "covisitation":
        return OTHERS
    return RANGE if channel in TAG_GROUPS else CONTENT
