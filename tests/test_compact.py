"""Compaction: what is old moves into files and reads as before, and erasure and retention reach it there."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.events import impression

from embed.behaviour import Event
from serve.core.errors import BadRequest, StoreUnavailable
from serve.core.settings import Settings
from serve.jobs.compact import compact
from serve.storage.archive import Archive
from serve.storage.database import Database
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog, events_with_impressions
from serve.storage.quarantine import Quarantine
from serve.storage.store_database import open_database

DAY = 86_400.0
NOW = time.time()


@pytest.fixture
def filled(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A log of half a year: impressions, clicks and responses."""
    monkeypatch.setattr("serve.storage.archive.MAX_ROWS", 70)
    configured = Settings(store=tmp_path / "store", events_url=url)
    events = open_event_log(configured)
    random = np.random.default_rng(0)
    for number in range(300):
        user, at = f"u{random.integers(20)}", NOW - random.uniform(0, 180) * DAY
        shown = [
            Event(f"s{number}-{place}", user, f"i{place}", "impression", at, request_id=f"q{number}", position=place)
            for place in range(3)
        ]
        events.add([*shown, Event(f"c{number}", user, "i1", "click", at + 60, request_id=f"q{number}")])
        ImpressionLog(events.database).add([impression(number, user, at=at - impression(0).timestamp)])
    events.close()
    return configured


def everything(configured: Settings, **bounds: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """What jobs read: events, answers, and both together."""
    events = open_event_log(configured)
    answers = ImpressionLog(events.database)
    read = [row for _, batch in events.batches(**bounds) for row in batch.to_pylist()]
    shown = [
        (number, one.request_id, one.user_id, one.timestamp, list(one.shown.items), one.shown.hidden.tobytes())
        for lot in answers.batches(**bounds)
        for number, one in lot
    ]
    both = [row for batch in events_with_impressions(events, answers, NOW - 100 * DAY) for row in batch.to_pylist()]
    events.close()
    by_id = sorted(read, key=lambda row: row["event_id"]), sorted(shown), sorted(both, key=lambda row: row["event_id"])
    assert len({row["event_id"] for row in read}) == len(read)
    return by_id


def test_what_was_moved_reads_as_before(filled: Settings) -> None:
    events = open_event_log(filled)
    answers = ImpressionLog(events.database)
    middle = {"after": 100, "until": 900}
    before, part = everything(filled), everything(filled, **middle)
    lasts = events.last_sequence(), answers.last_sequence()
    recent = events.recent("u3", 100, impressions=False)
    old = [row for row in before[0] if row["type"] == "impression" and row["timestamp"] < NOW - 60 * DAY]
    moved = compact(filled, days=60)
    assert moved.events == len(old) > 100
    assert 100 < moved.impressions < 300
    assert moved.deleted == 0
    for path in (filled.store / "history").glob("events-*"):  # as an earlier version wrote it
        pq.write_table(pq.read_table(path).drop_columns("query"), path)
    assert everything(filled) == before
    assert everything(filled, **middle) == part
    assert (events.last_sequence(), answers.last_sequence()) == lasts
    assert events.recent("u3", 100, impressions=False) == recent
    assert events.count() == len(before[0]) - len(old)
    again = compact(filled, days=60)
    assert (again.events, again.impressions) == (0, 0)
    # What is sent again is known again, wherever it lies.
    known = [Event(**row) for row in (old[0], before[0][-1])]
    assert events.add([*known, Event("new", "u3", "i1", "view", NOW)]) == [False, False, True]
    assert set(events.users()) == {row["user_id"] for row in before[0]}
    Quarantine(events.database).add({"u3": "a robot"})
    left = everything(filled)
    assert not any(row["user_id"] == "u3" for row in left[0])
    assert not any(one[2] == "u3" for one in left[1])
    events.close()


def test_a_kill_leaves_each_row_in_one_place(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(filled)

    class Killed(Exception):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "_add_hashes", kill)  # the file is there, the database knows nothing of it
        with pytest.raises(Killed):
            compact(filled, days=60)
    history = filled.store / "history"
    stray = list(history.iterdir())
    assert stray
    assert everything(filled) == before
    compact(filled, days=60)
    assert not set(stray) & set(history.iterdir())
    assert everything(filled) == before


def test_erasure_reaches_the_files_and_a_file_that_is_gone_is_named(filled: Settings) -> None:
    compact(filled, days=60)
    events = open_event_log(filled)
    before = everything(filled)
    own = [row for row in before[0] if row["user_id"] == "u5"]
    removed = UserPrivacy(events.database, filled.store).erase("u5")
    assert removed.events == len(own)
    assert removed.impressions == len([one for one in before[1] if one[2] == "u5"])
    left = everything(filled)
    assert left[0] == [row for row in before[0] if row["user_id"] != "u5"]
    assert "u5" not in set(events.users())
    for path in (filled.store / "history").iterdir():
        assert "u5" not in pq.read_table(path)["user_id"].to_pylist()
    archived = next(row for row in own if row["type"] == "impression" and row["timestamp"] < NOW - 60 * DAY)
    assert events.add([Event(**archived)]) == [True]  # not even its hash is kept
    path.unlink()
    with pytest.raises(StoreUnavailable, match=path.name):
        everything(filled)
    events.close()


def test_an_erasure_during_a_compaction_leaves_nothing(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    events = open_event_log(filled)
    before = everything(filled)
    write, erased = Archive._write, iter(["u5", "u6", "u7"])

    def erase_meanwhile(archive: Archive, table: pa.Table, name: str) -> None:
        write(archive, table, name)
        if (user := next(erased, None)) is not None:
            UserPrivacy(open_database(filled), filled.store).erase(user)

    monkeypatch.setattr(Archive, "_write", erase_meanwhile)
    compact(filled, days=60)
    left = everything(filled)
    users = {"u5", "u6", "u7"}
    assert left[0] == [row for row in before[0] if row["user_id"] not in users]
    assert left[1] == [one for one in before[1] if one[2] not in users]
    files = {path.name: pq.read_table(path)["user_id"].to_pylist() for path in (filled.store / "history").iterdir()}
    assert files.keys() == Archive(events.database).file_names()
    assert not any(users & set(ids) for ids in files.values())
    assert UserPrivacy(events.database, filled.store).replay() == 0
    events.close()


def test_a_killed_erasure_is_replayed(filled: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(filled, days=60)
    before = everything(filled)

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    for number, (owner, step) in enumerate([(Archive, "erase"), (Database, "purge")]):
        events = open_event_log(filled)
        with monkeypatch.context() as patch:
            patch.setattr(owner, step, kill)
            with pytest.raises(KeyboardInterrupt):
                UserPrivacy(events.database, filled.store).erase("u5")
        privacy = UserPrivacy(events.database, filled.store)
        assert privacy.count_erasures() == number
        privacy.replay()
        assert privacy.count_erasures() == number + 1
        assert everything(filled)[0] == [row for row in before[0] if row["user_id"] != "u5"]
        assert "u5" not in Archive(events.database).users()
        events.close()


def test_with_a_key_erasure_reaches_clear_ids_in_unknown_files(
    filled: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact(filled, days=60)
    history = filled.store / "history"
    for kind in ("answers", "events"):
        shutil.copy(next(history.glob(f"{kind}-*")), history / f"{kind}-feedfeedfeedfeed.parquet")
    compact(filled, days=60)
    monkeypatch.setenv("VETRINA_USER_KEY", "a secret of the shop")
    events = open_event_log(filled)
    unknown = list((history / "unknown").iterdir())
    rows = [user for path in unknown for user in pq.read_table(path)["user_id"].to_pylist()]
    assert {"u5", "u6"} < set(rows)
    privacy = UserPrivacy(events.database, filled.store)
    removed = privacy.erase("u5")
    assert removed.events + removed.impressions == rows.count("u5")
    with monkeypatch.context() as patch:
        patch.setattr(UserPrivacy, "_remove", lambda *_: None)  # a kill
        privacy.erase("u6")
    assert privacy.replay() == rows.count("u6")
    left = [user for path in unknown for user in pq.read_table(path)["user_id"].to_pylist()]
    assert left == [user for user in rows if user not in ("u5", "u6")]
    events.close()


def test_what_may_not_be_kept_is_deleted(filled: Settings) -> None:
    before = everything(filled)
    moved = compact(filled, days=60, keep_days=120)
    left = everything(filled)
    young = [row for row in before[0] if row["timestamp"] >= NOW - 120 * DAY]
    # Files go when all in them is older; what is in the database goes at once.
    assert {row["event_id"] for row in young} <= {row["event_id"] for row in left[0]}
    clicks = [row for row in left[0] if row["type"] == "click"]
    assert len(clicks) == len([row for row in young if row["type"] == "click"])
    assert moved.deleted >= len(before[0]) - len(left[0]) > 50
    compact(filled, days=60, keep_days=60)
    assert min(row["timestamp"] for row in everything(filled)[0] if row["type"] == "click") >= NOW - 61 * DAY


def test_mistakes_are_named(tmp_path: Path) -> None:
    configured = Settings(store=tmp_path)
    with pytest.raises(BadRequest, match="42 days"):
        compact(configured, days=20)
    with pytest.raises(BadRequest, match="days 90"):
        compact(configured, days=90, keep_days=30)
    assert compact(configured, days=90).events == 0


def test_a_log_without_a_store_has_no_history(tmp_path: Path) -> None:
    events = EventLog(f"sqlite:///{tmp_path / 'e.db'}")
    events.add([Event("e", "u", "i", "impression", 1.0)])
    assert pa.Table.from_batches([batch for _, batch in events.batches()]).num_rows == 1
    with pytest.raises(StoreUnavailable, match="history"):
        events.archive_before(2.0)
    events.close()


def test_unknown_files_are_moved_aside_and_erasure_and_retention_reach_them(filled: Settings) -> None:
    compact(filled, days=60)
    history = filled.store / "history"
    known = {path.name for path in history.iterdir()}
    copied = next(history.glob("answers-*"))
    rows = pq.read_table(copied)["user_id"].to_pylist()
    shutil.copy(copied, history / "answers-feedfeedfeedfeed.parquet")
    (history / "notes.txt").write_text("of somebody")
    assert compact(filled, days=60).unknown_files == ["answers-feedfeedfeedfeed.parquet", "notes.txt"]
    assert compact(filled, days=60).unknown_files == []
    unknown = history / "unknown"
    assert {path.name for path in history.iterdir()} == known | {"unknown"}
    assert {path.name for path in unknown.iterdir()} == {"answers-feedfeedfeedfeed.parquet", "notes.txt"}
    events = open_event_log(filled)
    counted = sum(one[2] == "u5" for one in everything(filled)[1])
    removed = UserPrivacy(events.database, filled.store).erase("u5")
    assert removed.impressions == counted + rows.count("u5") > counted
    left = pq.read_table(unknown / "answers-feedfeedfeedfeed.parquet")["user_id"].to_pylist()
    assert left == [user for user in rows if user != "u5"]
    events.close()
    os.utime(unknown / "notes.txt", (1, 1))
    compact(filled, days=43, keep_days=43)
    assert not list(unknown.iterdir())


def test_a_kill_while_files_are_deleted_leaves_nothing_behind(
    filled: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    compact(filled, days=60)
    history = filled.store / "history"

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "tidy", lambda archive: None)
        compact(filled, days=60, keep_days=60)  # files are withdrawn, but not deleted yet
    old = {path.name for path in history.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr("serve.storage.archive.sync", kill)  # files are deleted, but still recorded as withdrawn
        with pytest.raises(KeyboardInterrupt):
            compact(filled, days=60)
    assert compact(filled, days=60).unknown_files == []
    events = open_event_log(filled)
    assert {path.name for path in history.iterdir()} == Archive(events.database).file_names() < old
    events.close()


def test_a_file_that_an_erasure_was_killed_over_is_deleted_later(filled: Settings) -> None:
    compact(filled, days=60)
    part = next((filled.store / "history").glob("events-*"))
    temporary = part.with_name(f".{part.name}-0123abcd")
    temporary.write_bytes(part.read_bytes())
    assert compact(filled, days=60).unknown_files == []
    assert temporary.exists()  # it may be in use
    os.utime(temporary, (1, 1))
    assert compact(filled, days=60).unknown_files == []
    assert not temporary.exists()
    assert part.exists()
