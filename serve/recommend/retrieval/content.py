"""Content: items that look and read like the user's recent ones, in standard deviations above a random item."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from index.protocol import VectorIndex
from serve.recommend.feature_groups import CONTENT
from serve.recommend.retrieval.retriever import (
    FADE,
    RECENT,
    TOWER,
    RetrievalContext,
    Retriever,
    RetrieverResult,
    RetrieverSpec,
)
from serve.recommend.retrieval.retriever_results import NearestResult
from serve.recommend.retrieval.user_history import UserHistory


class ContentRetriever:
    """Finds, in each content space, the neighbours of the mean direction of the items that the user liked last."""

    def __init__(
        self,
        spaces: Mapping[str, VectorIndex],
        samples: Mapping[str, NDArray[np.float32]],
        weights: Mapping[str, float],
    ) -> None:
        self._spaces, self._samples, self._weights = spaces, samples, weights

    def retrieve(self, user: UserHistory) -> RetrieverResult | None:
        liked = user.item[user.weight > 0][-RECENT:][::-1]
        worth = (FADE ** np.arange(len(liked))).astype(np.float32)
        queries = {}
        for space, index in self._spaces.items():
            total = worth @ index.first_vectors(liked)
            length = float(np.linalg.norm(total))
            if length > 1e-6:
                queries[space] = total / np.float32(length)
        return NearestResult(self._spaces, queries, self._samples, self._weights) if queries else None


def _build(context: RetrievalContext) -> Retriever | None:
    spaces = {name: index for name, index in context.spaces.items() if name != TOWER}
    return ContentRetriever(spaces, context.samples, context.space_weights) if spaces else None


SPEC = RetrieverSpec("content", _build, CONTENT, CONTENT.wording, depth_share=0.25, weight=0.5)
