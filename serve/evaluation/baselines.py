"""Baselines on the same split: popularity, item-kNN, iALS and BPR, the last three from the `implicit` library.

Each gets its main settings chosen on validation, as ours do. A shopper without history gets what is popular, as none of
them has an answer of its own.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from embed.behaviour import Holdout, Interactions, Split
from embed.behaviour.ranking import hits, ndcg
from index.threads import one_thread

K = 10
BASELINES = ("popularity", "item-kNN", "iALS", "BPR")
_GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "popularity": {},
    "item-kNN": {"neighbours": (20, 100)},
    "iALS": {"factors": (32, 64, 128), "alpha": (1.0, 10.0)},
    "BPR": {"factors": (32, 64), "iterations": (50, 150)},
}


def rank_baseline(name: str, split: Split, k: int, seed: int) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """The k best items for each test shopper [m, k], -1 for none, and the settings that validation chose."""
    chosen = max(
        _settings(name), key=lambda given: _quality(_rank(name, split.train, split.validation, K, seed, given), split)
    )
    return _rank(name, split.before_test, split.test, k, seed, chosen), chosen


def _settings(name: str) -> Iterator[dict[str, Any]]:
    grid = _GRIDS[name]
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _quality(ranked: NDArray[np.int64], split: Split) -> float:
    return float(ndcg(hits(ranked, split.validation), split.validation, K).mean())


def _rank(
    name: str, interactions: Interactions, holdout: Holdout, k: int, seed: int, given: dict[str, Any]
) -> NDArray[np.int64]:
    liked = interactions.where(interactions.weight > 0)
    counts = np.bincount(liked.item, minlength=liked.items)
    popular = np.argsort(-counts, kind="stable")
    ranked = np.full((len(holdout), k), -1, np.int64)
    known = np.zeros(len(holdout), np.bool_)
    if name != "popularity":
        known = np.diff(holdout.history.where(holdout.history.weight > 0).starts) > 0
        users = np.flatnonzero(known)
        ranked[users] = _personal(name, liked, holdout.history.of(users), k, seed, given)
    for user in np.flatnonzero(~known):
        seen = holdout.history.item[holdout.history.starts[user] : holdout.history.starts[user + 1]]
        best = popular[: k + len(seen)]
        best = best[~np.isin(best, seen)][:k]
        ranked[user, : len(best)] = best
    return ranked


def _personal(
    name: str, liked: Interactions, histories: Interactions, k: int, seed: int, given: dict[str, Any]
) -> NDArray[np.int64]:
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking
    from implicit.nearest_neighbours import CosineRecommender

    matrix = _matrix(liked)
    model: Any
    with one_thread():
        if name == "item-kNN":
            model = CosineRecommender(K=given["neighbours"], num_threads=1)
        elif name == "iALS":
            model = AlternatingLeastSquares(
                given["factors"],
                regularization=0.05,
                alpha=given["alpha"],
                iterations=15,
                num_threads=1,
                random_state=seed,
                use_gpu=False,
            )
        else:
            model = BayesianPersonalizedRanking(
                given["factors"],
                learning_rate=0.05,
                regularization=0.01,
                iterations=given["iterations"],
                num_threads=1,
                random_state=seed,
                use_gpu=False,
            )
        model.fit(matrix, show_progress=False)
    # More than k, as what was seen, liked or not, is left out after.
    place = {user: row for row, user in enumerate(liked.users)}
    rows = np.array([place[user] for user in histories.users], np.int32)
    most = min(k + int(np.diff(histories.starts).max(initial=0)), liked.items)
    ids, _ = model.recommend(rows, matrix[rows], N=most, filter_already_liked_items=False)
    ranked = np.full((len(rows), k), -1, np.int64)
    for row, found in enumerate(ids):
        had = histories.item[histories.starts[row] : histories.starts[row + 1]]
        best = found[(found >= 0) & ~np.isin(found, had)][:k]
        ranked[row, : len(best)] = best
    return ranked


def _matrix(interactions: Interactions) -> Any:
    shape = (len(interactions.users), interactions.items)
    ones = np.ones(len(interactions), np.float32)
    return sparse.csr_matrix((ones, (interactions.user, interactions.item)), shape=shape)
