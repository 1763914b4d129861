"""Who is seen: how it is measured, and what the share of the tail does."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed.behaviour import Holdout, Interactions
from serve.core.settings import Settings
from serve.engine.user_context import load_user_context
from serve.evaluation.exposure import gini, item_exposure, measure_exposure
from serve.live.replica import open_engine
from serve.recommend.ranking.category_calibration import calibrate
from serve.recommend.ranking.quotas import LongTailQuota
from serve.storage.event_log import open_event_log


@given(st.lists(st.floats(0, 100), max_size=12))
def test_gini_is_the_mean_difference(values: list[float]) -> None:
    n, total = len(values), sum(values)
    expected = sum(abs(a - b) for a in values for b in values) / (2 * n * total) if total > 1e-9 else 0.0
    if total > 1e-9 or not total:
        assert gini(np.array(values)) == pytest.approx(expected, abs=1e-6)


def test_a_place_counts_as_in_ndcg() -> None:
    ranked = np.full((2, 100), -1)
    ranked[0, :3] = [4, 1, 2]
    ranked[1, :1] = [4]
    ranked[1, 10:12] = [3, 3]  # beyond the first ten
    np.testing.assert_allclose(item_exposure(ranked, 6), [0, 1 / np.log2(3), 0.5, 0, 2, 0])


def test_shares_are_of_items_of_likes_and_of_what_is_seen() -> None:
    none = np.empty(0)
    history = Interactions(
        np.array(["u"], object),
        4,
        np.array([0, 0]),
        none.astype(np.int32),
        none.astype(np.int8),
        none,
        none.astype(np.float32),
    )
    test = Holdout(history, np.array([0, 2]), np.array([0, 1]))
    ranked = np.full((1, 100), -1)
    ranked[0, :2] = [0, 3]
    found = measure_exposure({"a": ranked}, "a", test, {"brand": ["x", "x", "y", None], "seller": [None] * 4})
    assert set(found.groups) == {"brand"}
    x, y = found.groups["brand"]
    assert (x.name, x.items, x.liked, x.seen) == ("x", pytest.approx(2 / 3, abs=1e-3), 1.0, 1.0)
    assert (y.items, y.liked, y.seen) == (pytest.approx(1 / 3, abs=1e-3), 0.0, 0.0)
    many = measure_exposure({"a": ranked}, "a", test, {"brand": ["a", "b", "c", "d"]}).groups["brand"]
    assert sum(group.items for group in many) == pytest.approx(1)


def test_the_tail_is_what_little_demand_goes_to() -> None:
    popularity = np.array([10, 1, 1, 8, 0, 2], np.float32)
    tail = LongTailQuota.from_popularity(popularity, 0.5)
    assert tail is not None
    assert tail.below == 8  # 10 and 8 have over half of 22
    assert LongTailQuota.from_popularity(popularity, 0.0) is None
    assert LongTailQuota.from_popularity(np.zeros(3, np.float32), 0.5) is None


def test_a_share_of_the_places_is_kept_for_the_tail(trained: Settings) -> None:
    log = open_event_log(trained)
    users = [f"u{number:05}" for number in range(1, 30)]

    def lists(**options: Any) -> tuple[list[list[int]], Any]:
        configured = trained.model_copy(update={"new_share": 0.0, **options})
        engine = open_engine(configured)
        known = [load_user_context(log, configured, user) for user in users]
        return [[one.item_index for one in engine.recommend(of.events, 10, of.excluded_items)] for of in known], engine

    plain, engine = lists()
    kept, _ = lists(tail_share=0.6)
    log.close()
    popularity = engine.snapshot.release.behaviour.popularity
    tail = LongTailQuota.from_popularity(popularity, 0.6)
    assert tail is not None
    counts = [sum(popularity[item] < tail.below for item in items) for items in kept]
    before = [sum(popularity[item] < tail.below for item in items) for items in plain]
    assert min(counts) >= 6
    assert np.mean(before) < np.mean(counts)
    for first, second in zip(plain, kept, strict=True):
        rest = [item for item in first if item in second]
        assert rest[:1] == first[:1] or popularity[second[0]] < tail.below  # the best stays unless the tail is due


@given(
    scores=st.lists(st.floats(0, 1), min_size=6, max_size=14),
    kinds=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=14, max_size=14),
)
def test_calibration_takes_the_best_next_of_a_plain_search(scores: list[float], kinds: list[str | None]) -> None:
    wanted, k, much = {"a": 0.7, "b": 0.3}, 5, 0.6
    values = np.array(scores, np.float32)
    found = calibrate(values, kinds[: len(scores)], wanted, k, much)
    spread = float(values.max() - values.min())
    scaled = (values - values.min()) / spread if spread > 0 else np.ones(len(values))
    taken: list[int] = []
    for place in found.tolist():

        def gain(item: int) -> float:
            listed = [kinds[one] for one in [*taken, item]]
            shares = {name: 0.99 * listed.count(name) / len(listed) + 0.01 * of for name, of in wanted.items()}
            divergence = sum(of * np.log(of / shares[name]) for name, of in wanted.items())
            return float((1 - much) * scaled[item] - much * divergence)

        best = max(gain(item) for item in range(len(scores)) if item not in taken)
        assert gain(place) == pytest.approx(best, abs=1e-5)
        taken.append(place)


def test_lists_mix_as_the_history_does(trained: Settings) -> None:
    log = open_event_log(trained)

    def off(calibration: float) -> float:
        """How far the first ten are from the history's mix, in the mean (total variation)."""
        engine = open_engine(trained.model_copy(update={"new_share": 0.0, "calibration": calibration}))
        distances = []
        for user in [f"u{number:05}" for number in range(1, 30)]:
            known = load_user_context(log, trained, user)
            own = [engine.snapshot.item(number).category for number in engine.user(known.events).item.tolist()]
            if not own:
                continue
            shown = [
                engine.snapshot.item(one.item_index).category
                for one in engine.recommend(known.events, 10, known.excluded_items)
            ]
            names = set(own) | set(shown)
            distances.append(
                sum(abs(own.count(name) / len(own) - shown.count(name) / len(shown)) for name in names) / 2
            )
        return float(np.mean(distances))

    plain, kept = off(0.0), off(0.7)
    log.close()
    assert kept < 0.8 * plain
