"""The plain baselines that the pipeline is measured beside."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import sparse

from embed.behaviour import Interactions, Split, split_at
from serve.evaluation.baselines import BASELINES, rank_baseline
from serve.recommend.retrieval import ease
from serve.recommend.retrieval.ease import fit_ease

USERS, ITEMS, LIKES, DAY = 60, 24, 8, 86400.0


def likes_of(items: "np.ndarray[tuple[int, int], np.dtype[np.int64]]", days: Sequence[float]) -> Interactions:
    """Return likes: user u likes `items[u]` at `days`."""
    users, each = items.shape
    return Interactions(
        np.array([f"u{user}" for user in range(users)], object),
        ITEMS,
        np.arange(users + 1) * each,
        items.ravel().astype(np.int32),
        np.ones(users * each, np.int8),
        np.tile(np.array(days) * DAY, users),
        np.ones(users * each, np.float32),
    )


@pytest.fixture(scope="module")
def parities() -> Split:
    """Even users like even items, and odd users odd ones."""
    random = np.random.default_rng(5)
    items = np.stack([random.permutation(np.arange(user % 2, ITEMS, 2))[:LIKES] for user in range(USERS)])
    return split_at(likes_of(items, range(LIKES)), validation_from=4 * DAY, test_from=5 * DAY)


@pytest.mark.parametrize("penalty", [0.5, 20.0])
def test_ease_minimizes_the_squared_error_without_predicting_an_item_by_itself(
    penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease, "BLOCK", 7)
    likes = np.random.default_rng(0).random((40, 20)).round()
    weights = fit_ease(sparse.csr_matrix(likes, dtype=np.float32), penalty)
    for item in range(20):  # each column alone is a ridge regression on the other items
        others = np.arange(20) != item
        x = likes[:, others]
        expected = np.linalg.solve(x.T @ x + penalty * np.eye(19), x.T @ likes[:, item])
        np.testing.assert_allclose(weights[others, item], expected, atol=1e-4)
    assert not np.diag(weights).any()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_rank_items_that_a_user_has_not_seen_once(parities: Split, name: str) -> None:
    ranked = rank_baseline(name, parities, 10, seed=0).ranked
    assert ranked.shape == (len(parities.test), 10)
    for row, items in enumerate(ranked):
        history = parities.test.history
        assert len(np.unique(items[items >= 0])) == (items >= 0).sum()
        assert not np.isin(items, history.item[history.starts[row] : history.starts[row + 1]]).any()


@pytest.mark.parametrize("name", ["item-kNN", "EASE", "iALS"])
def test_personal_baselines_learn_who_likes_what(parities: Split, name: str) -> None:
    ranked = rank_baseline(name, parities, 3, seed=0).ranked
    parity = np.array([int(user[1:]) % 2 for user in parities.test.history.users])
    assert (ranked % 2 == parity[:, None]).mean() > 0.9


def test_recent_popularity_follows_the_fashion() -> None:
    old, new = np.arange(12), np.arange(12, ITEMS)
    random = np.random.default_rng(3)
    items = np.stack([np.r_[random.permutation(old)[:8], random.permutation(new)[:4]] for _ in range(USERS)])
    split = split_at(likes_of(items, [*range(8), 100, 101, 102, 103]), 102 * DAY, 103 * DAY)
    recent, chosen, quality = rank_baseline("recent popularity", split, 4, seed=0)
    ever, _, worse = rank_baseline("popularity", split, 4, seed=0)
    assert np.isin(recent, new).all()
    assert np.isin(ever, old).all()
    assert chosen["half_life_days"] < 60
    assert quality > worse
