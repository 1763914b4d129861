"""Baselines on the same split: popularity, recent popularity, item-kNN, EASE, iALS and BPR.

Item-kNN, iALS and BPR are those of the `implicit` library. The main settings of each are chosen on validation, as for
the pipeline. A user without history gets the most popular items, as none of the personal ones covers that case.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from embed.behaviour import Holdout, Interactions, Split
from embed.behaviour.holdout_metrics import hits, ndcg
from index.threads import one_thread
from index.top_k import top_k
from serve.core.units import DAY
from serve.recommend.retrieval.ease import fit_ease

K = 10
BASELINES = ("popularity", "recent popularity", "item-kNN", "EASE", "iALS", "BPR")
MAX_EASE_ITEMS = 20_000  # EASE recommends the most liked ones only; more would take minutes and gigabytes
_GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "popularity": {},
    "recent popularity": {"half_life_days": (3.0, 14.0, 60.0, 365.0)},
    "item-kNN": {"neighbours": (20, 100)},
    "EASE": {"penalty": (10.0, 100.0, 1000.0)},
    "iALS": {"factors": (32, 64, 128), "alpha": (1.0, 10.0)},
    "BPR": {"factors": (32, 64), "iterations": (50, 150)},
}


class RankedBaseline(NamedTuple):
    """The k best items for each of m test users, -1 for none, [m, k]; the chosen settings, and their NDCG@10 on
    validation.
    """

    ranked: NDArray[np.int64]
    options: dict[str, Any]
    validation_ndcg10: float


def rank_baseline(name: str, split: Split, k: int, seed: int) -> RankedBaseline:
    """Rank items by a baseline.

    Args:
        name: one of BASELINES.
        split: the interactions of training, validation and test.
        k: how many items to rank.
        seed: the seed of the models.
    """
    qualities = [
        (_quality(_rank(name, split.train, split.validation, K, seed, options), split), options)
        for options in _grid(name)
    ]
    quality, chosen = max(qualities, key=lambda each: each[0])
    return RankedBaseline(_rank(name, split.before_test, split.test, k, seed, chosen), chosen, quality)


def _grid(name: str) -> Iterator[dict[str, Any]]:
    grid = _GRIDS[name]
    for values in product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _quality(ranked: NDArray[np.int64], split: Split) -> float:
    return float(ndcg(hits(ranked, split.validation), split.validation, K).mean())


def _rank(
    name: str, interactions: Interactions, holdout: Holdout, k: int, seed: int, options: dict[str, Any]
) -> NDArray[np.int64]:
    liked = interactions.where(interactions.weight > 0)
    popular = np.argsort(-_popularity(liked, options.get("half_life_days")), kind="stable")
    ranked = np.full((len(holdout), k), -1, np.int64)
    has_likes = np.zeros(len(holdout), np.bool_)
    if "popularity" not in name:
        has_likes = np.diff(holdout.history.where(holdout.history.weight > 0).starts) > 0
        users = np.flatnonzero(has_likes)
        personal = _ease if name == "EASE" else _by_implicit
        ranked[users] = personal(name, liked, holdout.history.select_users(users), k, seed, options)
    for user in np.flatnonzero(~has_likes):
        seen = holdout.history.item[holdout.history.starts[user] : holdout.history.starts[user + 1]]
        best = popular[: k + len(seen)]
        best = best[~np.isin(best, seen)][:k]
        ranked[user, : len(best)] = best
    return ranked


def _popularity(liked: Interactions, half_life_days: float | None) -> NDArray[np.float64]:
    """Count the likes of each item, [items]; with a half-life, by their worth at the time of the last one."""
    worth = None
    if half_life_days is not None and len(liked):
        worth = 0.5 ** ((liked.time.max() - liked.time) / (DAY * half_life_days))
    return np.bincount(liked.item, weights=worth, minlength=liked.items).astype(np.float64)


def _ease(
    _name: str, liked: Interactions, histories: Interactions, k: int, _seed: int, options: dict[str, Any]
) -> NDArray[np.int64]:
    kept = np.argsort(-_popularity(liked, None), kind="stable")[:MAX_EASE_ITEMS]
    likes = _matrix(liked)[:, kept].sign()  # also of what was liked twice
    weights = fit_ease(likes, options["penalty"])
    rows = {user: row for row, user in enumerate(liked.users)}
    ranked = np.full((len(histories.users), k), -1, np.int64)
    for row, user in enumerate(histories.users):
        scores = (likes[[rows[user]]] @ weights)[0]  # [kept]
        scores[np.isin(kept, histories.item[histories.starts[row] : histories.starts[row + 1]])] = -np.inf
        best = top_k(scores, kept, k)
        ranked[row, : len(best)] = kept[best]
    return ranked


def _by_implicit(
    name: str, liked: Interactions, histories: Interactions, k: int, seed: int, options: dict[str, Any]
) -> NDArray[np.int64]:
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking
    from implicit.nearest_neighbours import CosineRecommender

    matrix = _matrix(liked)
    model: Any
    with one_thread():
        if name == "item-kNN":
            model = CosineRecommender(K=options["neighbours"], num_threads=1)
        elif name == "iALS":
            model = AlternatingLeastSquares(
                options["factors"],
                regularization=0.05,
                alpha=options["alpha"],
                iterations=15,
                num_threads=1,
                random_state=seed,
                use_gpu=False,
            )
        else:
            model = BayesianPersonalizedRanking(
                options["factors"],
                learning_rate=0.05,
                regularization=0.01,
                iterations=options["iterations"],
                num_threads=1,
                random_state=seed,
                use_gpu=False,
            )
        model.fit(matrix, show_progress=False)
    # More than k, as items of the history, liked or not, are removed afterwards.
    rows_by_user = {user: row for row, user in enumerate(liked.users)}
    rows = np.array([rows_by_user[user] for user in histories.users], np.int32)
    depth = min(k + int(np.diff(histories.starts).max(initial=0)), liked.items)
    ids, _ = model.recommend(rows, matrix[rows], N=depth, filter_already_liked_items=False)
    ranked = np.full((len(rows), k), -1, np.int64)
    for row, recommended in enumerate(ids):
        seen = histories.item[histories.starts[row] : histories.starts[row + 1]]
        best = recommended[(recommended >= 0) & ~np.isin(recommended, seen)][:k]
        ranked[row, : len(best)] = best
    return ranked


def _matrix(interactions: Interactions) -> Any:
    shape = (len(interactions.users), interactions.items)
    ones = np.ones(len(interactions), np.float32)
    return sparse.csr_matrix((ones, (interactions.user, interactions.item)), shape=shape)
