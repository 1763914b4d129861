"""How much each source of a search counts, learned from what shoppers took to after they had searched.

For weights in steps of a tenth the place of the item that was taken, among all items, is known exactly from its scores
in each source. Half of the searches choose the weights, the other half says whether they are surely better than equal
ones; else equal ones stay.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, field_validator

from serve.search.fusion import standardised

FEWEST, MOST = 200, 2_000  # searches
STEPS = 10
TIE = 1e-6
SURE = 1.645  # standard errors, one-sided 95 %
SEED = 0
Scores = Mapping[str, NDArray[np.float32]]


class FusionWeights(BaseModel):
    """What was learned from `searches`: factors on the weights of sources, equal ones where others are not better.

    `before` and `after` are the mean reciprocal rank, among all items, of what was taken, in searches not learned from.
    """

    searches: int
    before: float
    after: float
    weights: dict[str, float]

    @field_validator("weights")
    @classmethod
    def _current_names(cls, weights: dict[str, float]) -> dict[str, float]:
        """Version 0.1 called keyword search `words`."""
        return {"keywords" if name == "words" else name: weight for name, weight in weights.items()}


def learn_weights(
    searches: Sequence[tuple[str, int]], scores_of: Callable[[str], Scores], retrievers: Sequence[str]
) -> FusionWeights | None:
    """From queries with the number of the item taken; `scores_of` gives a query's scores of all items by source.

    None where there are too few searches, or one source only.
    """
    if len(searches) < FEWEST or len(retrievers) < 2:
        return None
    random = np.random.default_rng(SEED)
    chosen = [searches[place] for place in random.permutation(len(searches))[:MOST]]
    grid = np.array(
        [each for each in product(range(STEPS + 1), repeat=len(retrievers)) if sum(each) == STEPS], np.float32
    )
    equal = np.full((1, len(retrievers)), STEPS / len(retrievers), np.float32)
    every = (np.concatenate([equal, grid]) / STEPS).astype(np.float32)  # [w, sources]
    gains = np.array([_gains(scores_of(query), item, every, retrievers) for query, item in chosen])  # [searches, w]
    # Searches that say the same must not stand on both sides.
    half = np.array([crc32(query.encode("utf-8", "surrogatepass")) % 2 for query, _ in chosen], np.bool_)
    best = int(gains[half].mean(0).argmax())
    difference = gains[~half, best] - gains[~half, 0]
    better = difference.mean() > SURE * difference.std() / max(1, len(difference)) ** 0.5
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
    """The reciprocal rank of an item by each of w ways to weigh the sources, [w]."""
    nothing = np.zeros_like(next(iter(scores.values())))
    every = np.stack([standardised(scores[name], scores[name]) if name in scores else nothing for name in retrievers])
    totals = weights @ every  # [w, items]
    own = totals[:, item : item + 1]
    # By how words are spelled many items are alike: half of them come before it.
    before = (totals > own + TIE).sum(1) + ((np.abs(totals - own) <= TIE).sum(1) - 1) / 2
    return np.asarray(1 / (1 + before), np.float32)
