"""Arrivals: items that are new in the catalogue. The score is 1 on the first day and halves with age."""

import numpy as np
from numpy.typing import NDArray

from serve.core.units import DAY
from serve.recommend.feature_groups import NOVELTY
from serve.recommend.retrieval.retriever import RetrievalContext, Retriever, RetrieverSpec, Scores
from serve.recommend.retrieval.retriever_results import StaticRetriever


def score_arrivals(first_seen: NDArray[np.float64], now: float, half_life_days: float) -> Scores:
    """Score how new items are, [items]: 1 at `now`, halved for each half-life; 0 after ten, and for an unknown age."""
    age = np.maximum(0, now - first_seen) / (DAY * half_life_days)
    return np.where(age <= 10, 0.5**age, 0).astype(np.float32)


def _build(context: RetrievalContext) -> Retriever | None:
    scores, order = context.behaviour.arrival_ranking(context.now)
    return StaticRetriever(scores, order, context.index_mapping) if len(order) else None


SPEC = RetrieverSpec("arrivals", _build, NOVELTY, "it is new in the shop", depth_share=0.25, weight=0.3)
