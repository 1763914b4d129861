"""Feedback: what was shown is logged before what came of it counts, and every process learns the same from it."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from helpers.events import NOW, click, impression, shown_items
from helpers.service import Service, free_port, good, is_ready, served, until
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from embed.behaviour import Event, Signal
from serve.core.errors import BadRequest, StoreUnavailable
from serve.core.settings import Settings
from serve.core.units import DAY
from serve.evaluation.off_policy import LoggedList, estimate
from serve.evaluation.off_policy_report import estimate_release
from serve.live.online_learning import OnlineLearner
from serve.recommend.ranking.exploration import Exploration, compute_propensities, count_eligible
from serve.recommend.ranking.impressions import read_impressions
from serve.recommend.ranking.online_head import OnlineHead
from serve.release.repository import open_current
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog, ImpressionRecord, ShownItems, events_with_impressions
from serve.storage.impression_writer import ImpressionWriter
from serve.storage.store_database import FILE

HEADS = ["click", "purchase"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 20), st.lists(st.booleans(), max_size=3)), max_size=12),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_head_is_the_ridge_regression_of_all_outcomes_in_any_order(
    shown: list[tuple[int, float, list[bool]]], data: st.DataObject
) -> None:
    prior, half_life, now = 7.0, 3.0, NOW + 20 * DAY
    scale = np.array([0.5, 1, 2, 1], np.float32)
    lists = [shown_items(seed) for seed, _, _ in shown]
    acts: list[tuple[str, int, int]] = [("shown", place, 0) for place in range(len(shown))]
    acts += [("came", place, row) for place, (_, _, came) in enumerate(shown) for row, did in enumerate(came) if did]
    head = OnlineHead(HEADS, scale, prior, half_life, NOW)
    for what, place, row in data.draw(st.permutations(acts)):
        time_ = NOW + DAY * shown[place][1]
        if what == "shown":
            head.record_shown(lists[place].hidden, lists[place].probabilities, time_)
        else:
            head.record_outcome(lists[place].hidden[row], "click", time_)
    precision, right = prior * np.eye(5), np.zeros((2, 5))
    for of, (_, days, came) in zip(lists, shown, strict=True):
        weight = 0.5 ** ((20 - days) / half_life)
        x = np.concatenate([of.hidden / scale, np.ones((3, 1))], 1)
        y = np.zeros((3, 2))
        y[: len(came), 0] = came
        precision += weight * x.T @ x
        right += weight * (y - of.probabilities).T @ x
    expected = np.linalg.solve(precision, right.T).T
    assert_allclose(head.weights(now).mean, expected, rtol=1e-6, atol=1e-9)
    x = shown_items(9).hidden
    assert_allclose(
        head.correction(x, now), np.concatenate([x / scale, np.ones((3, 1))], 1) @ expected.T, rtol=1e-4, atol=1e-6
    )
    random = np.random.default_rng(0)
    draws = np.stack([head.correction(x, now, random) for _ in range(4000)])
    covariance = np.linalg.inv(precision)
    inputs = np.concatenate([x / scale, np.ones((3, 1))], 1)
    spread = np.sqrt(np.einsum("nd,de,ne->n", inputs, covariance, inputs))[:, None] * head.weights(now).noise
    assert_allclose(draws.std(0), spread, rtol=0.08)


def test_years_of_feedback_do_not_overflow() -> None:
    head = OnlineHead(HEADS, np.ones(4, np.float32), 5.0, 1.0, NOW)
    for day in range(0, 4000, 50):
        head.record_shown(shown_items(day).hidden, shown_items(day).probabilities, NOW + day * DAY)
        head.record_outcome(shown_items(day).hidden[0], "click", NOW + day * DAY)
    assert np.isfinite(head.weights(NOW + 4000 * DAY).mean).all()


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=5), st.integers(1, 5), st.floats(0.1, 3))
@settings(max_examples=50, deadline=None)
def test_a_drawn_list_comes_as_often_as_its_propensities_say(scores: list[float], k: int, temperature: float) -> None:
    found = np.sort(np.array(scores, np.float32))[::-1]
    k = min(k, len(found))
    orders = [np.array(order) for order in itertools.permutations(range(len(found)), k)]
    likely = np.array([compute_propensities(found, order, temperature).prod() for order in orders], np.float64)
    assert likely.sum() == pytest.approx(1, abs=1e-4)
    exploration = Exploration("plackett_luce", np.random.default_rng(0), temperature, 0.0)
    draws = [exploration.draw(found, k) for _ in range(600)]
    for order, of in draws[:20]:
        assert_allclose(of, compute_propensities(found, order, temperature), rtol=1e-5)
    best = int(likely.argmax())
    share = np.mean([np.array_equal(order, orders[best]) for order, _ in draws])
    error = np.sqrt(likely[best] * max(0.0, 1 - likely[best]) / 600)
    assert share == pytest.approx(likely[best], abs=float(5 * error + 1e-3))


def test_only_what_is_nearly_as_good_takes_part() -> None:
    scores = np.array([9, 8, 5, 4.1, 3.9, 1], np.float32)
    assert count_eligible(scores, 3, 0.8) == 4
    assert count_eligible(scores, 10, 0.8) == 6
    assert count_eligible(np.ones(100, np.float32), 3, 0.8) == 15


def test_answers_come_back_as_they_were(url: str) -> None:
    events = EventLog(url)
    store = ImpressionLog(events.database)
    nothing = ShownItems([], "", "best", np.empty(0, np.float32), np.empty(0, np.float32))
    given_ = [impression(1), impression(2, None, 5.0), replace(impression(3), shown=nothing)]
    store.add(given_)
    store.add([impression(1, "somebody else")])
    back = [one for lot in store.batches(page_rows=2) for _, one in lot]
    assert [one.request_id for one in back] == ["r1", "r2", "r3"]
    for one, other in zip(back, given_, strict=True):
        assert (one.user_id, one.timestamp, one.shown.items) == (other.user_id, other.timestamp, other.shown.items)
        for name in ("scores", "propensities", "hidden", "probabilities"):
            assert_allclose(getattr(one.shown, name), getattr(other.shown, name))
    assert [one.request_id for lot in store.batches(since=NOW + 1) for _, one in lot] == ["r2"]
    shown = next(store.event_batches()).to_pylist()
    assert [(row["item_id"], row["position"], row["type"]) for row in shown[:2]] == [
        ("i0", 0, "impression"),
        ("i1", 1, "impression"),
    ]
    events.close()


def test_the_log_never_waits_and_counts_what_it_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = EventLog(f"sqlite:///{tmp_path / 'e.db'}")
    store, writing, may_write = ImpressionLog(events.database), threading.Event(), threading.Event()
    monkeypatch.setattr("serve.storage.impression_writer.MAX_QUEUED", 5)
    write = store.add

    def add(answers: Any) -> None:
        writing.set()
        may_write.wait(10)
        if any(one.request_id == "r3" for one in answers):
            raise StoreUnavailable("no disk", "events")
        write(answers)

    monkeypatch.setattr(store, "add", add)
    log = ImpressionWriter(store)
    log.put(impression(0))
    assert writing.wait(10)
    for number in range(1, 30):
        log.put(impression(number))
    assert log.dropped == 24  # 5 wait
    may_write.set()
    log.wait_for("r0")
    log.wait_for("never asked")
    log.close()
    assert log.dropped == 29  # those 5 could not be written
    assert [one.request_id for lot in store.batches() for _, one in lot] == ["r0"]
    events.close()


def test_what_answers_showed_is_learned_from_unless_the_shop_says_itself_what_was_seen(url: str) -> None:
    events = EventLog(url)
    answers = ImpressionLog(events.database)
    drawn = np.array([0.5, np.nan, 0.25], np.float32)
    answers.add([impression(1, propensities=drawn), impression(2), impression(3, None), impression(4, at=-9.0)])
    seen = Event("seen", "u", "i1", "impression", NOW + 3, request_id="r2", position=1)
    events.add([click(1, timestamp=NOW + 60), seen])
    lists = read_impressions(events_with_impressions(events, answers, NOW), pa.array(["i0", "i1", "i2"]), Signal(), NOW)
    assert [(user, time_ - NOW) for user, time_ in zip(lists.users, lists.times, strict=True)] == [("u", 0), ("u", 3)]
    assert lists.item.tolist() == [0, 1, 2, 1]
    assert lists.position.tolist() == [0, 1, 2, 1]
    assert_allclose(lists.propensity, [0.5, np.nan, 0.25, np.nan])
    assert lists.labels[:, 0].tolist() == [True, False, False, False]
    assert [len(batch) for batch in events_with_impressions(events, answers, NOW, 1, 1)] == [1, 3]
    events.close()


class _Scorer:
    fingerprint = "s"

    class metadata:  # noqa: N801
        hidden_scale = (1.0, 1.0, 1.0, 1.0)
        heads = dict.fromkeys(HEADS)
        events_until = 60


@pytest.fixture
def learning(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("time.time", lambda: NOW + 3600)
    events = EventLog(url)
    known = ["u", "flood", *(f"u{number}" for number in range(50))]
    events.add([Event(f"before {user}", user, "i0", "view", NOW - 9 * DAY) for user in known])
    yield events, ImpressionLog(events.database), lambda: OnlineLearner(events, Settings(), _Scorer())  # type: ignore[arg-type]
    events.close()


def mean_of(feedback: OnlineLearner) -> np.ndarray:
    return feedback.head.weights(NOW + 3600).mean


def test_two_processes_learn_the_same_however_they_read(learning: Any) -> None:
    events, answers, make = learning
    early, late = make(), make()
    for number in range(12):
        answers.add([impression(number, f"u{number % 3}")])
        if number % 2:
            events.add([click(number, user=f"u{number % 3}"), click(number, "i2", f"u{number % 3}", type="purchase")])
        early.catch_up()
        early.catch_up()
    late.catch_up()
    assert_allclose(mean_of(early), mean_of(late), rtol=1e-9)
    assert early.learned == late.learned == 6 * 3  # a purchase is a click too
    assert np.abs(mean_of(late)).max() > 1e-3


def test_only_interactions_with_a_response_count_and_count_once(learning: Any) -> None:
    events, answers, make = learning
    answers.add([impression(1), impression(2, None), impression(3, scorer="another"), impression(4)])
    plain = make()
    plain.catch_up()
    before = mean_of(plain)
    events.add(
        [
            click(1, "not shown"),
            click(1, user="somebody else"),
            click(2),
            click(3),
            click(99),
            click(4, timestamp=NOW - 60),
            click(4, "i1", timestamp=NOW + 2 * DAY),
            click(4, "i2", type="rating", value=1.0),
        ]
    )
    plain.catch_up()
    assert_allclose(mean_of(plain), before)
    events.add([click(1), click(1, event_id="again"), click(1, event_id="and again", timestamp=NOW + 61)])
    plain.catch_up()
    assert plain.learned == 1
    answers.add([impression(7, "nobody knew")])
    events.add([click(7, user="nobody knew")])
    plain.catch_up()
    assert plain.learned == 1


def test_any_number_of_clicks_of_one_user_has_little_influence(learning: Any) -> None:
    events, answers, make = learning
    answers.add([impression(number, "flood", at=number) for number in range(400)])
    answers.add([impression(1000 + number, f"u{number}") for number in range(50)])
    events.add([click(number, user="flood", timestamp=NOW + number + 1) for number in range(400)])
    feedback = make()
    feedback.catch_up()
    assert feedback.learned == Settings().online.max_daily_responses


def some_answer(service: Service, user: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = good(service.client.post("/v1/recommend", json={"user_id": user, "k": 8, **more}))
    return found


def test_clicks_on_answers_change_what_every_worker_shows(copied: Settings, url: str) -> None:
    online = copied.online.model_copy(update={"learn": True})
    copied = copied.model_copy(update={"online": online, "events_url": url})
    (copied.store / FILE).unlink()  # it takes another database
    events = EventLog(url)  # of which the scorer knows the first lot
    fans = [f"u{number:05}" for number in range(1, 41)]
    events.add([Event(f"before {user}", user, "i0", "view", NOW) for user in fans])
    events.close()
    with served(copied) as one, served(copied) as other:
        before = {item["item_id"]: item for item in some_answer(one, "judge", k=72)["items"]}
        wanted = list(before)[-1]
        scorer = open_current(copied.store).behaviour.scorer
        assert scorer is not None
        for number in range(40):
            user = fans[number]
            found = some_answer(one, user, k=72)
            ids = [item["item_id"] for item in found["items"]]
            act = {"user_id": user, "item_id": wanted, "type": "purchase", "request_id": found["request_id"]}
            sent = good(one.client.post("/v1/events", json={"events": [act | {"event_id": user}]}))
            assert sent["events"][0]["status"] == "stored"
            assert wanted in ids
        apps = [service.app.state.live for service in (one, other)]
        heads = [live.feedback_watcher.learners[scorer.fingerprint] for live in apps]
        until(lambda: all(feedback.learned == 40 * len(_of_purchase(scorer)) for feedback in heads))
        now = time.time()
        means = [feedback.head.weights(now).mean for feedback in heads]
        assert_allclose(means[0], means[1], rtol=1e-6, atol=1e-12)
        after = [
            {item["item_id"]: item for item in some_answer(service, "judge", k=72, explain=True)["items"]}
            for service in (one, other)
        ]
        assert after[0][wanted]["score"] > before[wanted]["score"]
        assert after[0][wanted]["score"] == pytest.approx(after[1][wanted]["score"], abs=1e-3)
        for item in after[0].values():
            of = item["reasons"]
            assert "feedback" in of["parts"]
            total = of["base"] + sum(of["parts"].values()) + sum(event["value"] for event in of["history"])
            assert total == pytest.approx(item["score"], abs=2e-3)


def logged_in(answers: ImpressionLog) -> dict[str, ImpressionRecord]:
    return {one.request_id: one for lot in answers.batches() for _, one in lot}


def _of_purchase(scorer: Any) -> list[str]:
    return [head for head in scorer.metadata.heads if head in ("click", "cart", "purchase")]


def test_an_answer_is_on_disk_before_a_click_on_it_is_acknowledged(copied: Settings) -> None:
    answers = ImpressionLog(open_event_log(copied).database)
    with served(copied) as service:
        for number in range(5):
            found = some_answer(service, f"quick{number}")
            item = found["items"][0]["item_id"]
            act = {"user_id": f"quick{number}", "item_id": item, "type": "click", "request_id": found["request_id"]}
            good(service.client.post("/v1/events", json={"events": [act]}))
            logged = logged_in(answers)[found["request_id"]]
            assert list(logged.shown.items) == [one["item_id"] for one in found["items"]]
            assert logged.shown.propensities.tolist() == [1] * 8
            assert (logged.user_id, logged.release) == (f"quick{number}", found["release"])
            assert logged.shown.hidden.shape[0] == logged.shown.probabilities.shape[0] == 8


def test_exploring_shows_other_items_and_logs_how_likely_they_were(copied: Settings) -> None:
    answers = ImpressionLog(open_event_log(copied).database)
    with served(copied) as service:
        drawn = [some_answer(service, "curious", explore=True) for _ in range(12)]
        lists = {tuple(item["item_id"] for item in found["items"]) for found in drawn}
        assert len(lists) > 3
        service.app.state.live.users.impressions.wait_for(drawn[-1]["request_id"])
        logged = logged_in(answers)
        assert set(logged) == {found["request_id"] for found in drawn}
    for one in logged.values():
        assert one.shown.policy == "plackett_luce"
        assert ((one.shown.propensities > 0) & (one.shown.propensities <= 1)).all()
    always = copied.explore.model_copy(update={"policy": "thompson", "share": 1.0})
    learning = copied.online.model_copy(update={"learn": True})
    thompson = copied.model_copy(update={"explore": always, "online": learning})
    with served(thompson) as service:
        lists = {tuple(item["item_id"] for item in some_answer(service, "curious")["items"]) for _ in range(12)}
        assert len(lists) > 1
        best = [some_answer(service, "curious", explore=False)["items"] for _ in range(4)]
        assert best == [best[0]] * 4


def test_estimates_from_drawn_lists_come_to_what_another_order_earns() -> None:
    """Three items, two places: the truth is counted over all lists."""
    random, temperature, looked = np.random.default_rng(0), 0.7, np.array([1.0, 0.6])
    ours, others = np.array([0.5, 0.3, 0.2], np.float32), np.array([0.2, 0.5, 0.3], np.float32)
    likes, model = np.array([0.3, 0.6, 0.1]), np.array([0.2, 0.4, 0.3])
    orders = [np.array(order) for order in itertools.permutations(range(3), 2)]
    of_others = [compute_propensities(others, order, temperature).astype(np.float64) for order in orders]
    truth = sum(of.prod() * (likes[order] @ looked) for of, order in zip(of_others, orders, strict=True))
    lists = []
    exploration = Exploration("plackett_luce", random, temperature, 0.0)
    probability = others ** (1 / temperature)
    for _ in range(6000):
        order, logged = exploration.draw(ours, 2)
        left = np.delete(np.arange(3), order[:1])
        expected = [
            probability / probability.sum() @ model * looked[0],
            probability[left] / probability[left].sum() @ model[left] * looked[1],
        ]
        lists.append(
            LoggedList(
                logged.astype(np.float64),
                compute_propensities(others, order, temperature).astype(np.float64),
                (random.random(2) < likes[order] * looked).astype(np.float64),
                model[order] * looked,
                np.array(expected),
            )
        )
    found = estimate(lists)
    for of in (found.ips, found.snips, found.dr):
        assert of.low <= of.mean <= of.high
        assert of.mean == pytest.approx(truth, abs=0.025)
    assert found.logged.mean < truth - 0.03
    assert 1000 < found.effective < 6000
    # Where the model knows all, it is all that is needed: the intervals shrink with it.
    known = [replace(one, reward=one.predicted) for one in lists]
    exact = estimate(known).dr
    assert exact.high - exact.low < (found.ips.high - found.ips.low) / 3
    same = estimate([replace(one, other=one.logged) for one in lists])
    assert same.ips.mean == pytest.approx(same.logged.mean)
    assert same.effective == pytest.approx(6000)
    with pytest.raises(ValueError, match="lists is empty"):
        estimate([])


def test_a_release_is_judged_by_what_came_of_drawn_lists(copied: Settings) -> None:
    configured = copied.model_copy(update={"explore": copied.explore.model_copy(update={"share": 1.0})})
    name = open_current(copied.store).name
    with pytest.raises(BadRequest, match="no explored list"):
        estimate_release(configured, name)
    with served(configured) as service:
        for number in range(30):
            found = some_answer(service, f"u{number:05}")
            act = {"user_id": f"u{number:05}", "type": "click", "request_id": found["request_id"]}
            chosen = [act | {"item_id": item["item_id"]} for item in found["items"][: number % 3]]
            if chosen:
                good(service.client.post("/v1/events", json={"events": chosen}))
        some_answer(service, "u00001", explore=False)
        good(service.client.post("/v1/recommend", json={"k": 3, "explore": True}))
    found = estimate_release(configured, name)
    assert (found.estimates.lists, found.excluded) == (30, 1)
    # The same release, settings and users: every list is as likely as it was.
    assert found.estimates.logged.mean == pytest.approx(1.0)
    assert found.estimates.ips.mean == pytest.approx(1.0, abs=1e-3)
    assert found.estimates.effective == pytest.approx(30, abs=0.1)
    sharper = configured.model_copy(update={"explore": configured.explore.model_copy(update={"temperature": 0.1})})
    assert estimate_release(sharper, name).estimates.effective < 25


def test_kill_9_of_workers_loses_nothing_acknowledged(copied: Settings, url: str) -> None:
    events = EventLog(url)
    answers = ImpressionLog(events.database)
    (copied.store / FILE).unlink()  # it takes another database
    port = free_port()
    command = [sys.executable, "-c", "from serve.cli import main; main()", "serve", "--store", str(copied.store)]
    service = subprocess.Popen(
        [*command, "--workers", "2", "--port", str(port)],
        env=os.environ | {"VETRINA_EVENTS_URL": url},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    acknowledged: list[tuple[str, str]] = []  # request and event
    stop = threading.Event()

    def shop(name: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            user, event_id = f"{name}-{number // 20}", f"{name}-{number}"  # one user would soon have seen all items
            base = f"http://127.0.0.1:{port}"
            with suppress(httpx.TransportError), httpx.Client(base_url=base, timeout=10, trust_env=False) as client:
                answered = client.post("/v1/recommend", json={"user_id": user, "k": 5})
                if answered.status_code != 200:
                    continue
                found = answered.json()
                act = {"user_id": user, "item_id": found["items"][0]["item_id"], "type": "click", "event_id": event_id}
                sent = client.post("/v1/events", json={"events": [act | {"request_id": found["request_id"]}]})
                if sent.status_code == 200 and sent.json()["events"][0]["status"] == "stored":
                    acknowledged.append((found["request_id"], event_id))

    users = [threading.Thread(target=shop, args=(f"user{number}",)) for number in range(4)]
    try:
        until(lambda: is_ready(port))
        for thread in users:
            thread.start()
        for _ in range(3):
            count = len(acknowledged)
            until(lambda count=count: len(acknowledged) > count + 12 and len(workers_of(service.pid)) == 2)  # type: ignore[misc]
            # The older one, which is sure to be at work: one that is killed while it starts is not missed for a minute.
            os.kill(min(workers_of(service.pid), key=began), signal.SIGKILL)
        os.killpg(service.pid, signal.SIGKILL)
    finally:
        stop.set()
        with suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGKILL)
        service.wait()
        for thread in users:
            thread.join()
    kept = {event.event_id: event.request_id for _, event in events.attributed_events(0, 0.0)}
    logged = logged_in(answers)
    for request_id, event_id in acknowledged:
        assert kept[event_id] == request_id
        assert request_id in logged
    events.close()


def began(pid: int) -> int:
    """When a process began, in ticks since the machine did: its number may have begun from 1 again."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def workers_of(pid: int) -> list[int]:
    """The processes that answer, of a service."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
