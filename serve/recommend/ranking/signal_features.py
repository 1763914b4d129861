"""Features of items themselves: the trend of demand, the age, the price."""

from collections.abc import Mapping, Sequence

import numpy as np

from serve.core.units import DAY
from serve.recommend.feature_groups import NOVELTY, POPULARITY, PRICE
from serve.recommend.ranking.feature import FeatureColumn, FeatureInputs, ShopSchema
from serve.recommend.retrieval.retriever import Scores


class Trend:
    """Recent demand relative to overall demand."""

    def columns(self, schema: ShopSchema) -> Sequence[FeatureColumn]:
        return [FeatureColumn("trend", POPULARITY)]

    def compute(self, inputs: FeatureInputs) -> Mapping[str, Scores | float]:
        return {"trend": inputs.items.trend}


class Age:
    """The logarithm of the days since an item came into the catalogue."""

    def columns(self, schema: ShopSchema) -> Sequence[FeatureColumn]:
        return [FeatureColumn("age", NOVELTY)]

    def compute(self, inputs: FeatureInputs) -> Mapping[str, Scores | float]:
        days = np.maximum(0, inputs.context.now - inputs.items.first_seen) / DAY
        return {"age": np.log2(1 + days).astype(np.float32)}


class PriceLevel:
    """The price, and its signed and absolute difference from the mean price of the liked items of the history."""

    def columns(self, schema: ShopSchema) -> Sequence[FeatureColumn]:
        return [FeatureColumn(name, PRICE) for name in ("price", "price_against_usual", "price_distance")]

    def compute(self, inputs: FeatureInputs) -> Mapping[str, Scores | float]:
        price = inputs.items.price
        usual = inputs.recent_items.price[inputs.recent.weight > 0]
        if np.isnan(usual).all():
            return {"price": price}
        difference = price - np.float32(np.nanmean(usual))
        return {"price": price, "price_against_usual": difference, "price_distance": np.abs(difference)}


FEATURES = (Trend(), Age(), PriceLevel())
