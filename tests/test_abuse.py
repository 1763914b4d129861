"""Robots and floods: found, kept, shown, not learned from, and released by a command."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.events import click, impression
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.behaviour import Event, as_batch
from serve import cli
from serve.core.settings import Settings
from serve.storage import bot_detection
from serve.storage.bot_detection import find_bots, quarantine_bots, user_habits
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog
from serve.storage.quarantine import Quarantine

T0 = 1767225600.0

some_events = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from(["click", "impression"]), st.integers(0, 400)),
    min_size=1,
    max_size=60,
)


def event(place: int, user: str, item: str, time: float, type_: str = "click") -> Event:
    return Event(f"{user}-{place}", user, item, type_, T0 + time)


@given(some_events)
@settings(max_examples=100, deadline=None)
def test_habits_are_what_counting_says(rows: list[tuple[int, int, str, int]]) -> None:
    events = [event(n, f"u{user}", f"i{item}", time, type_) for n, (user, item, type_, time) in enumerate(rows)]
    users, habits, _ = user_habits([as_batch(events[:10]), as_batch(events[10:])])
    assert set(users) == {one.user_id for one in events if one.type == "click"}
    for user, row in zip(users, habits, strict=True):
        own = sorted((one for one in events if one.user_id == user and one.type == "click"), key=lambda e: e.timestamp)
        times = np.array([one.timestamp for one in own])
        a_minute = max(int(((times >= time) & (times < time + 60)).sum()) for time in times)
        most = max(sum(one.item_id == item for one in own) for item in {one.item_id for one in own})
        breadth = len({one.item_id for one in own}) / len(own)
        assert np.expm1(row[[0, 1, 4]]) == pytest.approx([len(own), a_minute, most])
        assert row[3] == pytest.approx(breadth)
        if len(own) > 2 and np.diff(times).mean() > 0:
            steady = np.clip(np.diff(times).std() / np.diff(times).mean(), 1e-3, 1e3)
            assert row[2] == pytest.approx(np.log(steady), abs=1e-3)


def fill(store: EventLog) -> None:
    """150 people with habits of their own; a flood, a clock, one who loves one thing, and one unlike all others."""
    random = np.random.default_rng(0)
    events = []
    for person in range(150):
        times = np.cumsum(random.lognormal(6, 1.5, 40)) + random.integers(86_400)
        liked = random.integers(0, 300, 15)
        events += [event(n, f"p{person}", f"i{random.choice(liked)}", time) for n, time in enumerate(times)]
    events += [event(n, "flood", "i1", n / 10) for n in range(400)]
    events += [event(n, "clock", f"i{n}", 30 * n) for n in range(60)]
    events += [event(n, "fan", "i7", 300 * n + random.integers(200)) for n in range(80)]
    gaps = random.lognormal(0.7, 0.3, 3000)
    events += [event(n, "strange", f"s{n}", time) for n, time in enumerate(np.cumsum(gaps))]
    store.add(events)


def test_who_looks_like_a_robot_is_kept_but_not_learned_from(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EventLog(url)
    answers = ImpressionLog(store.database)
    fill(store)
    answers.add([impression(1, "flood"), impression(2, "p1"), impression(3, None)])
    store.add([click(1, user="flood"), click(2, user="p1")])
    monkeypatch.setattr(bot_detection, "MAX_PER_MINUTE", 60)
    found = {one.user_id: one.reason for one in quarantine_bots(store)}
    assert set(found) == {"flood", "clock", "fan", "strange"}
    assert "in a minute" in found["flood"]
    assert "with 0% variation" in found["clock"]
    assert "with one item in a day" in found["fan"]
    assert "unlike" in found["strange"] or "in a minute" in found["strange"]
    learned = {row["user_id"] for _, batch in store.batches() for row in batch.to_pylist()}
    assert learned == {f"p{person}" for person in range(150)}
    assert store.count("flood") == 401
    assert {event.user_id for _, event in store.attributed_events(0, 0.0)} == {"p1"}
    assert [one.request_id for lot in answers.batches() for _, one in lot] == ["r2", "r3"]
    assert Quarantine(store.database).release("flood")
    assert not Quarantine(store.database).release("flood")
    assert find_bots(store) == []  # who was released is not taken again
    assert "flood" in {row["user_id"] for _, batch in store.batches() for row in batch.to_pylist()}
    assert [one.user_id for one in Quarantine(store.database).entries() if one.released] == ["flood"]
    store.close()


def test_an_erasure_reaches_the_quarantine(tmp_path: Path) -> None:
    store = EventLog(f"sqlite:///{tmp_path / 'e.db'}")
    fill(store)
    quarantine_bots(store)
    UserPrivacy(store.database, tmp_path).erase("clock")
    assert "clock" not in {one.user_id for one in Quarantine(store.database).entries()}
    store.close()


def test_the_command_line_looks_lists_and_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = open_event_log(Settings(store=tmp_path))
    fill(store)
    store.close()

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["vetrina", "quarantine", *arguments, "--store", str(tmp_path)])
        with pytest.raises(SystemExit):
            cli.main()
        return "".join(capfd.readouterr())

    assert {one["user_id"] for one in json.loads(run("scan", "--json"))} == {"flood", "clock", "fan", "strange"}
    assert json.loads(run("scan", "--json")) == []
    assert "with 0% variation" in run("list")
    assert "released" in run("release", "clock")
    assert "user 'clock' is not in quarantine" in run("release", "clock")


def test_a_log_without_interactions_has_no_bots(tmp_path: Path) -> None:
    store = EventLog(f"sqlite:///{tmp_path / 'e.db'}")
    assert find_bots(store) == []
    store.add([event(0, "u", "i", 0, "impression")])
    assert find_bots(store) == []
    store.close()
