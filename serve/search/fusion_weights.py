"""Fusion weights: how much each retriever of a search counts, learned from the items that users chose after searches.

For weights in steps of a tenth, the rank of the chosen item among all items follows exactly from its scores by each
retriever. One half of the searches selects the weights; the other half decides whether they are significantly better
than equal weights. If not, the weights stay equal.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, field_validator

from serve.search.fusion import standardise

MIN_SEARCHES, MAX_SEARCHES = 200, 2_000
STEPS = 10
TIE = 1e-6
SIGNIFICANT = 1.645  # standard errors, one-sided 95 %
SEED = 0
Scores = Mapping[str, NDArray[np.float32]]


class FusionWeights(BaseModel):
    """Factors on the weights of retrievers, learned from `searches`; equal if no others are better.

    `before` and `after` are the mean reciprocal rank of the chosen item among all items, in held-out searches.
    """

    searches: int
    before: float
    after: float
    weights: dict[str, float]

    @field_validator("weights")
    @classmethod
    def _current_names(cls, weights: dict[str, float]) -> dict[str, float]:
        """Rename keyword search, which version 0.1 called `words`."""
        return {"keywords" if name == "words" else name: weight for name, weight in weights.items()}


def learn_weights(
    searches: Sequence[tuple[str, int]], scores_of: Callable[[str], Scores], retrievers: Sequence[str]
) -> FusionWeights | None:
    """Learn the weights of retrievers from queries with the item index of the chosen item.

    `scores_of` returns a query's scores of all items by retriever. None for too few searches or a single retriever.
    """
    if len(searches) < MIN_SEARCHES or len(retrievers) < 2:
        return None
    random = np.random.default_rng(SEED)
    chosen = [searches[row] for row in random.permutation(len(searches))[:MAX_SEARCHES]]
    grid = np.array(
        [each for each in product(range(STEPS + 1), repeat=len(retrievers)) if sum(each) == STEPS], np.float32
    )
    equal = np.full((1, len(retrievers)), STEPS / len(retrievers), np.float32)
    every = (np.concatenate([equal, grid]) / STEPS).astype(np.float32)  # [w, retrievers]
    gains = np.array([_gains(scores_of(query), item, every, retrievers) for query, item in chosen])  # [searches, w]
    # Searches with the same query must be in the same half.
    half = np.array([crc32(query.encode("utf-8", "surrogatepass")) % 2 for query, _ in chosen], np.bool_)
    best = int(gains[half].mean(0).argmax())
    difference = gains[~half, best] - gains[~half, 0]
    better = difference.mean() > SIGNIFICANT * difference.std() / max(1, len(difference)) ** 0.5
    weights = every[best if better else 0]
    return FusionWeights(
        searches=len(chosen),
        before=round(float(gains[~half, 0].mean()), 4),
        after=round(float(gains[~half, best if better else 0].mean()), 4),
        weights={
            name: round(float(weight * len(retrievers)), 3) for name, weight in zip(retrievers, weights, strict=True)
        },
    )


def _gains(scores: Scores, item: int, weights: NDArray[np.float32], retrievers: Sequence[str]) -> NDArray[np.float32]:
    """Return the reciprocal rank of an item by each of w weightings, [w]."""
    no_scores = np.zeros_like(next(iter(scores.values())))
    every = np.stack([standardise(scores[name], scores[name]) if name in scores else no_scores for name in retrievers])
    totals = weights @ every  # [w, items]
    own = totals[:, item : item + 1]
    # Many items have equal keyword scores: half of the ties come before it.
    before = (totals > own + TIE).sum(1) + ((np.abs(totals - own) <= TIE).sum(1) - 1) / 2
    return np.asarray(1 / (1 + before), np.float32)
