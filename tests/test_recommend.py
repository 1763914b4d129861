"""Recommendations: what each source says, how the blend learns, and that k come whenever there are k."""

import numpy as np
import pytest
from helpers.behaviour import NOW, interactions, some_rows, user_history
from hypothesis import given, settings
from hypothesis import strategies as st

from index.exact_index import ExactIndex
from index.item_mask import ItemMask
from index.space import Space
from serve.core.units import DAY
from serve.recommend.retrieval.arrivals import score_arrivals
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.content import ContentRetriever
from serve.recommend.retrieval.covisitation import (
    BACKWARDS,
    FROM_POWER,
    HISTORY_FADE,
    TO_POWER,
    Covisitation,
    CovisitationRetriever,
)
from serve.recommend.retrieval.linear_score_model import LinearScoreModel, ScoreModelExample, fit
from serve.recommend.retrieval.popularity import count_popularity
from serve.recommend.retrieval.retriever import ItemIndexMapping, Retriever
from serve.recommend.retrieval.retriever_results import StaticRetriever, order_by_score


@given(some_rows, st.lists(st.tuples(st.integers(0, 7), st.sampled_from([0.0, 1.0])), max_size=6))
@settings(max_examples=150, deadline=None)
def test_covisitation_counts_what_others_went_to(
    rows: list[tuple[int, int, float, float]], history: list[tuple[int, float]]
) -> None:
    given_ = interactions(rows)
    half_life = 30.0
    worth = [
        weight * 0.5 ** (max(0, NOW - at) / DAY / half_life)
        for at, weight in zip(given_.time, given_.weight, strict=True)
    ]
    matrix = np.zeros((8, 8))
    popular = np.zeros(8)
    for user in range(len(given_.users)):
        own = range(given_.starts[user], given_.starts[user + 1])
        for early in own:
            popular[given_.item[early]] += worth[early]
            for late in own:
                if late > early:
                    strength = (worth[early] * worth[late] / (late - early)) ** 0.5
                    matrix[given_.item[early], given_.item[late]] += strength
                    matrix[given_.item[late], given_.item[early]] += BACKWARDS * strength
    popular = np.maximum(popular, 1e-9)
    matrix = popular[:, None] ** -FROM_POWER * matrix * popular**-TO_POWER
    np.fill_diagonal(matrix, 0)
    expected = np.zeros(8)
    for back, (item, weight) in enumerate(reversed(history)):
        expected += HISTORY_FADE**back * (weight > 0) * matrix[item]
    asked = user_history([item for item, _ in history], [weight for _, weight in history])
    reached, scores = Covisitation.count(given_, NOW, half_life).score_history(asked.item, asked.weight)
    assert (np.diff(reached) > 0).all()
    found = np.zeros(8, np.float32)
    found[reached] = scores
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_popularity_counts_shoppers_so_that_a_robot_counts_once() -> None:
    robot = [(0, 1, 0.0, 1.0)] * 500
    people = [(user, 2, 0.0, 1.0) for user in range(1, 4)] + [(4, 3, 14.0, 1.0), (5, 4, 0.0, 0.0)]
    found = count_popularity(interactions(robot + people), NOW, 14.0)
    assert found.tolist() == pytest.approx([0, 1, 3, 0.5, 0, 0, 0, 0])
    assert order_by_score(found).tolist() == [2, 1, 3]


def test_arrivals_fade_and_an_unknown_age_is_none() -> None:
    seen = NOW - DAY * np.array([0.0, 14.0, 1000.0, np.nan])
    assert score_arrivals(seen, NOW, 14.0).tolist() == pytest.approx([1, 0.5, 0, 0])


def exact(items: int = 8, dim: int = 4, name: str = "text") -> ExactIndex:
    vectors = np.random.default_rng(0).normal(size=(items, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owners = np.arange(items, dtype=np.int32)
    return ExactIndex(Space(name, dim, "x"), vectors, owners, owners, items)


def test_content_neighbours_come_of_what_was_liked_not_of_what_was_disliked() -> None:
    index = exact()
    source = ContentRetriever({"text": index}, {"text": index.vectors}, {"text": 1.0})
    liked = source.retrieve(user_history([3, 5], [1.0, 0.0]))
    assert liked is not None
    assert liked.best(1, None).tolist() == [3]
    only_disliked = source.retrieve(user_history([5], [0.0]))
    assert only_disliked is None
    assert source.retrieve(user_history([])) is None


def retrievers(scores: dict[str, list[float]], index_mapping: ItemIndexMapping | None = None) -> dict[str, Retriever]:
    return {
        name: StaticRetriever(np.array(of, np.float32), order_by_score(np.array(of, np.float32)), index_mapping)
        for name, of in scores.items()
    }


@given(
    st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=8, max_size=8),
    st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=8, max_size=8),
    st.sets(st.integers(0, 7)),
    st.one_of(st.none(), st.sets(st.integers(0, 7))),
    st.sets(st.integers(0, 7), max_size=3),
    st.integers(1, 9),
)
@settings(max_examples=200, deadline=None)
def test_k_come_whenever_there_are_k_best_first_and_nothing_that_may_not(
    popular: list[float], new: list[float], excluded: set[int], allowed: set[int] | None, deleted: set[int], k: int
) -> None:
    mask = np.array([allowed is None or item in allowed for item in range(8)])
    score_model = LinearScoreModel(weights={"popularity": 1.0, "arrivals": 2.0}, smoothing={"popularity": 0.5})
    gone_items = np.array(sorted(deleted), np.int64)
    # What is gone is in no order of a source, as its numbering says.
    now = np.array([-1 if item in deleted else item for item in range(8)])
    index_mapping = ItemIndexMapping(np.arange(8), now)
    recommender = CandidateGenerator(
        retrievers({"popularity": popular, "arrivals": new}, index_mapping), score_model, 8, gone_items
    )
    wanted = np.array(sorted(excluded), np.int64)
    found = recommender.recommend(user_history([]), k, wanted, None if allowed is None else ItemMask(mask))
    total = np.log(np.array(popular) / 0.5 + 1) + 2 * np.array(new)
    may = [item for item in range(8) if mask[item] and item not in excluded | deleted]
    proposed = [item for item in may if popular[item] or new[item]]
    expected = sorted(proposed, key=lambda item: (-round(float(total[item]), 4), item))
    expected += [item for item in may if item not in proposed]
    assert found.items.tolist() == expected[:k]
    assert (np.diff(found.total) <= 1e-5).all()


def test_items_that_live_changes_renumbered_keep_what_is_known_of_them() -> None:
    """Item 2 was put anew and is number 8 now; item 0 is gone; item 9 is new."""
    index_mapping = ItemIndexMapping(
        to_release=np.array([0, 1, 2, 3, 4, 5, 6, 7, 2, -1]), to_snapshot=np.array([-1, 1, 8, 3, 4, 5, 6, 7])
    )
    scores = np.array([9, 1, 5, 0, 0, 0, 0, 0], np.float32)
    answer = StaticRetriever(scores, order_by_score(scores), index_mapping).retrieve(user_history([]))
    assert answer is not None
    assert answer.best(10, None).tolist() == [8, 1]
    assert answer.scores(np.array([1, 8, 9])).tolist() == [1, 5, 0]
    counted = Covisitation.count(interactions([(0, 2, 2.0, 1.0), (0, 3, 1.0, 1.0)]), NOW)
    reached = CovisitationRetriever(counted, index_mapping).retrieve(user_history([8]))
    assert reached is not None
    assert reached.best(10, None).tolist() == [3]
    assert CovisitationRetriever(counted, index_mapping).retrieve(user_history([9])) is None


def test_the_blend_finds_what_each_source_is_worth() -> None:
    """Choices are drawn by known weights; a source of noise gets next to nothing."""
    random = np.random.default_rng(0)
    cases = []
    for _ in range(3000):
        cosine = random.uniform(-1, 1, 30).astype(np.float32)
        counts = random.exponential(1.0, 30).astype(np.float32)
        noise = random.normal(size=30).astype(np.float32)
        utility = 4 * cosine + 1.5 * np.log(counts / 0.5 + 1) + random.gumbel(size=30)
        cases.append(
            ScoreModelExample(
                {"tower": cosine, "covisitation": counts, "content": noise}, np.arange(30) == utility.argmax()
            )
        )
    score_model = fit(cases, ["tower", "covisitation", "content"])
    assert score_model.weights["tower"] == pytest.approx(4, rel=0.1)
    assert score_model.weights["content"] < 0.08
    # Weight and floor trade off; what counts is the curve they make together.
    at = np.linspace(0, 4, 9).astype(np.float32)
    curve = score_model.part("covisitation", at)
    np.testing.assert_allclose(curve - curve[0], 1.5 * np.log(at / 0.5 + 1), atol=0.3)


def test_what_nobody_had_is_taken_for_what_counts_say_on_average() -> None:
    random = np.random.default_rng(0)
    cases = []
    for _ in range(3000):
        counts = random.exponential(3.0, 30).astype(np.float32)
        utility = np.log(counts / 0.5 + 1) + random.gumbel(size=30)
        new = random.random(30) < 0.2
        cases.append(ScoreModelExample({"popularity": np.where(new, 0, counts)}, np.arange(30) == utility.argmax()))
    score_model = fit(cases, ["popularity"])
    total = score_model.total({"popularity": np.array([0, 0.4, 1.7, 6], np.float32)}, 4)
    assert total[1] < total[0] < total[3]
    assert total[0] == pytest.approx(total[2], abs=0.5)


def test_cases_that_hold_nothing_liked_teach_nothing() -> None:
    assert (
        fit([ScoreModelExample({"tower": np.ones(3, np.float32)}, np.zeros(3, np.bool_))], ["tower"])
        == LinearScoreModel()
    )
