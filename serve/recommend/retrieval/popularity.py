"""Popularity: how many users like each item, recent ones counting more. Users are counted, not clicks."""

import numpy as np

from embed.behaviour import Interactions
from serve.core.units import DAY
from serve.recommend.feature_groups import POPULARITY
from serve.recommend.retrieval.retriever import RetrievalContext, Retriever, RetrieverSpec, Scores
from serve.recommend.retrieval.retriever_results import StaticRetriever

TREND_FACTOR = 4  # how many times shorter the half-life is that a trend compares with


def count_popularity(interactions: Interactions, now: float, half_life_days: float) -> Scores:
    """Count the users who like each item, [items]; each counts half for each half-life since.

    Every user counts once for an item, at the latest time, so that bots and floods do not dominate.
    """
    liked = interactions.where(interactions.weight > 0)
    pair = liked.user * max(1, liked.items) + liked.item
    order = np.lexsort((-liked.time, pair))
    latest = order[np.unique(pair[order], return_index=True)[1]]
    worth = 0.5 ** (np.maximum(0, now - liked.time[latest]) / (DAY * half_life_days))
    return np.bincount(liked.item[latest], weights=worth, minlength=liked.items).astype(np.float32)


def compute_trend(popularity: Scores, recent_popularity: Scores) -> Scores:
    """Compare recent with overall demand, [items]: 0 for equal, 1 for twice as much; NaN for items without any.

    `recent_popularity` has a half-life TREND_FACTOR times shorter, which divides steady demand by that factor.
    """
    with np.errstate(invalid="ignore"):
        ratio = np.log2((TREND_FACTOR * recent_popularity + 1) / (popularity + 1))
    return np.where(popularity > 0, ratio, np.nan).astype(np.float32)


def _build(context: RetrievalContext) -> Retriever | None:
    scores, order = context.behaviour.popularity_ranking
    return StaticRetriever(scores, order, context.index_mapping) if len(order) else None


SPEC = RetrieverSpec("popularity", _build, POPULARITY, POPULARITY.wording, depth_share=0.5, weight=0.3, smoothing=1.0)
