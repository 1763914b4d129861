"""The tower retriever: items that the two towers place near the user's recent interactions. Scores are cosines."""

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from embed.towers.two_tower_model import TrainedTowers
from index.protocol import VectorIndex
from serve.recommend.feature_groups import PERSONALIZATION
from serve.recommend.retrieval.retriever import TOWER, RetrievalContext, Retriever, RetrieverResult, RetrieverSpec
from serve.recommend.retrieval.retriever_results import NearestResult
from serve.recommend.retrieval.user_history import UserHistory


class TowerRetriever:
    """Finds the neighbours of the user's vector in the tower space.

    `encode` returns a user's unit vector [dim], or None if no item of the history is in the space.
    """

    def __init__(self, index: VectorIndex, encode: Callable[[UserHistory], NDArray[np.float32] | None]) -> None:
        self._index, self._encode = index, encode

    def retrieve(self, user: UserHistory) -> RetrieverResult | None:
        query = self._encode(user)
        return None if query is None else NearestResult({TOWER: self._index}, {TOWER: query})


def encode_user(towers: TrainedTowers, index: VectorIndex, user: UserHistory) -> NDArray[np.float32] | None:
    """Return the user's unit vector [dim] from the item vectors of an index, or None if it has no item of the user."""
    recent = user.last(towers.settings.history)
    vectors = index.first_vectors(recent.item)
    has_vector = vectors.any(axis=1)
    if not has_vector.any():
        return None
    return towers.user_vector(vectors[has_vector], recent.kind[has_vector], recent.time[has_vector])


def _build(context: RetrievalContext) -> Retriever | None:
    towers, index = context.behaviour.towers, context.spaces.get(TOWER)
    if towers is None or index is None:
        return None
    return TowerRetriever(index, partial(encode_user, towers, index))


SPEC = RetrieverSpec(TOWER, _build, PERSONALIZATION, PERSONALIZATION.wording, weight=12.0)
