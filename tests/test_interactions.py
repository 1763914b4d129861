"""Interactions: what events become, in bulk and for one shopper; splits that keep the future out; ranking metrics."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.behaviour import (
    Event,
    Holdout,
    Interactions,
    Signal,
    as_batch,
    collect_interactions,
    leave_one_out,
    split_at,
    split_by_time,
    split_user_tails,
)
from embed.behaviour.holdout_metrics import hits, ndcg, recall, reciprocal_rank
from embed.behaviour.interactions import KINDS
from serve.recommend.retrieval.user_history import UserHistory

IDS = pa.array(["a", "b", "c"])
SIGNAL = Signal()
some_events = st.lists(
    st.builds(
        Event,
        event_id=st.uuids().map(str),
        user_id=st.sampled_from(["u", "v"]),
        item_id=st.sampled_from(["a", "b", "c", "unknown"]),
        type=st.sampled_from(["impression", "view", "click", "cart", "purchase", "rating", "dislike"]),
        timestamp=st.integers(1_600_000_000, 1_600_000_010).map(float),
        value=st.one_of(st.none(), st.sampled_from([1.0, 3.9, 4.0, 5.0])),
    ),
    max_size=30,
)


@given(some_events)
@settings(max_examples=200)
def test_in_bulk_and_for_one_shopper_events_become_the_same(events: list[Event]) -> None:
    interactions, collected = collect_interactions([as_batch(events[:7]), as_batch(events[7:])], IDS, SIGNAL)
    numbers = {"a": 0, "b": 1, "c": 2}
    for number, user in enumerate(interactions.users):
        of_user = sorted((event for event in events if event.user_id == user), key=lambda event: event.timestamp)
        expected = UserHistory.from_events(of_user, numbers.get, SIGNAL)
        found = UserHistory.from_interactions(interactions, number)
        for name in ("item", "kind", "time", "weight"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    told = collected
    assert told.events == len(events)
    assert told.events == told.interactions + told.impressions + told.pending + told.merged + told.cut
    assert told.interactions == len(interactions)


def event(user: str, item: str, type_: str, at: float, value: float | None = None) -> Event:
    return Event(f"{user}{item}{type_}{at}", user, item, type_, at, value)


def test_a_click_that_ends_in_a_purchase_is_one_interaction_and_dislikes_are_never_liked() -> None:
    events = [
        event("u", "a", "impression", 1),
        event("u", "a", "click", 2),
        event("u", "a", "view", 3),
        event("u", "a", "purchase", 9),
        event("u", "b", "rating", 10, 2.0),
        event("u", "c", "click", 11),
        event("u", "c", "dislike", 12),
        event("u", "a", "click", 13),
        event("u", "z", "purchase", 14),
    ]
    found, told = collect_interactions([as_batch(events)], IDS, SIGNAL)
    assert [KINDS[kind] for kind in found.kind] == ["purchase", "low rating", "dislike", "click"]
    assert found.item.tolist() == [0, 1, 2, 0]
    assert found.weight.tolist() == [3.0, 0.0, 0.0, 1.0]
    assert found.time.tolist() == [2.0, 10.0, 11.0, 13.0]
    assert (told.impressions, told.pending, told.pending_items, told.merged) == (1, 1, 1, 3)


def test_a_flood_is_cut_to_its_last_interactions() -> None:
    events = [event("robot", "abc"[place % 3], "view", place) for place in range(500)]
    found, told = collect_interactions([as_batch(events)], IDS, SIGNAL, limit=100)
    assert (len(found), told.cut, found.time.min()) == (100, 400, 400.0)


def interactions(rows: list[tuple[int, int, float, float]], users: int = 3, items: int = 6) -> Interactions:
    """From (user, item, time, weight), in order."""
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    starts = np.concatenate([[0], np.cumsum(np.bincount([row[0] for row in rows], minlength=users))])
    return Interactions(
        np.array([f"u{user}" for user in range(users)], object),
        items,
        starts,
        np.array([row[1] for row in rows], np.int32),
        np.zeros(len(rows), np.int8),
        np.array([row[2] for row in rows], np.float64),
        np.array([row[3] for row in rows], np.float32),
    )


some_interactions = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 5),
        st.integers(0, 20).map(float),
        st.sampled_from([0.0, 1.0, 3.0]),
    ),
    max_size=40,
).map(interactions)


@given(some_interactions, st.floats(0, 20), st.floats(0, 20))
@settings(max_examples=200)
def test_nothing_of_the_future_is_learned_from(given: Interactions, one: float, other: float) -> None:
    first, second = sorted((one, other))
    split = split_at(given, first, second)
    assert (split.train.time < first).all()
    assert (split.before_test.time < second).all()
    for held, start, end in ((split.validation, first, second), (split.test, second, math.inf)):
        assert (held.history.time < start).all()
        for place, user in enumerate(held.history.users):
            rows = [row for row in range(len(given)) if given.users[given.user[row]] == user]
            had = {given.item[row] for row in rows if given.time[row] < start}
            liked = {given.item[row] for row in rows if start <= given.time[row] < end and given.weight[row] > 0}
            assert set(held.targets[held.starts[place] : held.starts[place + 1]].tolist()) == liked - had
            assert set(UserHistory.from_interactions(held.history, place).item.tolist()) == had
            assert liked - had


def test_the_last_tenth_of_what_is_liked_is_the_test() -> None:
    given = interactions([(user, place % 6, 10.0 * place + user, 1.0) for user in range(3) for place in range(10)])
    split = split_by_time(given, validation=0.2, test=0.1)
    assert (split.before_test.time < split.test_from).sum() == 27
    assert split.report["train_interactions"] == len(split.train) == 21
    nothing = split_by_time(given.where(given.time < 0))
    assert (len(nothing.train), len(nothing.test)) == (0, 0)
    assert len(split_by_time(given, validation=0.1, test=0.0).before_test) == len(given)


def test_leave_one_out_holds_out_the_last_two() -> None:
    split = leave_one_out(interactions([(0, item, item, 1.0) for item in range(5)] + [(1, 0, 0, 1.0), (1, 1, 1, 1.0)]))
    assert split.train.item.tolist() == [0, 1, 2, 0, 1]
    assert (split.validation.targets.tolist(), split.test.targets.tolist()) == ([3], [4])
    assert split.test.history.item.tolist() == [0, 1, 2, 3]


def test_user_tails_hold_out_the_last_of_every_user() -> None:
    rows = [(0, item, item, 1.0) for item in range(10)] + [(1, 0, 0, 1.0), (1, 1, 1, 1.0)] + [(2, 5, 9, 1.0)]
    split = split_user_tails(interactions(rows, items=10), validation=0.2, test=0.2)
    assert split.train.user.tolist() == [0] * 6 + [1, 2]
    assert split.train.item.tolist() == [0, 1, 2, 3, 4, 5, 0, 5]
    assert split.validation.targets.tolist() == [6, 7]  # users keep their first interaction
    assert split.test.targets.tolist() == [8, 9, 1]
    assert split.test.history.item.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0]


@given(st.data())
def test_metrics_are_those_of_the_textbook(data: st.DataObject) -> None:
    items, k = 8, 5
    targets = [
        sorted(data.draw(st.sets(st.integers(0, items - 1), min_size=1, max_size=6), label=f"targets {user}"))
        for user in range(3)
    ]
    ranked = [data.draw(st.permutations(range(items)), label=f"ranked {user}")[:k] for user in range(3)]
    history = interactions([], users=3, items=items)
    starts = np.cumsum([0, *map(len, targets)])
    holdout = Holdout(history, starts, np.array([target for of in targets for target in of], np.int32))
    found = hits(np.array(ranked), holdout)
    for user in range(3):
        gains = [float(item in targets[user]) for item in ranked[user]]
        gain = sum(each / math.log2(place + 2) for place, each in enumerate(gains))
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(targets[user]))))
        assert ndcg(found, holdout, k)[user] == pytest.approx(gain / ideal)
        assert recall(found, holdout, k)[user] == pytest.approx(sum(gains) / len(targets[user]))
        first = next((1 / (place + 1) for place, each in enumerate(gains) if each), 0.0)
        assert reciprocal_rank(found)[user] == pytest.approx(first)
