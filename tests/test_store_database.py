"""A store and its database belong together: any other database is refused before it can do harm."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Run
from helpers.events import impression
from sqlalchemy import create_engine, inspect

from embed.behaviour import Event
from serve.core.errors import StoreUnavailable, WrongDatabase
from serve.core.settings import Settings
from serve.core.units import DAY
from serve.jobs.compact import compact
from serve.jobs.import_events import import_events
from serve.jobs.train import train, train_scorer
from serve.live.runtime import ServiceRuntime
from serve.storage import store_database
from serve.storage.erasure import UserPrivacy, replay_erasures
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog
from serve.storage.store_database import FILE, check_database, open_database


def configured(tmp_path: Path, url: str) -> Settings:
    return Settings(store=tmp_path / "store", events_url=url)


def fill(settings: Settings) -> None:
    """Add old impressions of both kinds, which a compaction moves into files."""
    events = open_event_log(settings)
    events.add([Event(f"s{number}", "u", "i", "impression", 1e9 + number) for number in range(5)])
    ImpressionLog(events.database).add([impression(number, at=-50 * DAY) for number in range(5)])
    events.close()


def files(settings: Settings) -> set[str]:
    return {path.name for path in (settings.store / "history").glob("*.parquet")}


@pytest.fixture
def other(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'other.sqlite'}"


def uses(settings: Settings, tmp_path: Path) -> dict[str, Callable[[], Any]]:
    feed = tmp_path / "events.jsonl"
    feed.write_text('{"user_id": "u", "item_id": "i", "type": "click", "timestamp": 1}')
    return {
        "open": lambda: open_event_log(settings),
        "compact": lambda: compact(settings, days=60, keep_days=90),
        "import": lambda: import_events(settings, feed),
        "train": lambda: train(settings),
        "train the scorer": lambda: train_scorer(settings),
        "erase": lambda: replay_erasures(settings),
        "serve": lambda: ServiceRuntime(settings).start(),
        "check": lambda: check_database(settings),
    }


def test_a_store_and_its_database_get_one_id_at_first_use(url: str, tmp_path: Path) -> None:
    settings = configured(tmp_path, url)
    for number in range(2):
        database = open_database(settings)
        EventLog.from_database(database).add([Event(f"e{number}", "u", "i", "click", 1.0)])
        store_id = (settings.store / FILE).read_text().strip()
        assert store_database._read_id(database) == store_id
        assert len(store_id) == 32
        database.close()


@pytest.mark.parametrize("state", ["empty", "rows", "of another store"])
def test_another_database_is_refused_everywhere_and_nothing_is_lost(
    url: str, other: str, tmp_path: Path, state: str
) -> None:
    settings = configured(tmp_path, url)
    fill(settings)
    compact(settings, days=60)
    before = files(settings)
    assert before
    wrong = settings.model_copy(update={"events_url": other})
    if state == "rows":
        log = EventLog(other)
        log.add([Event("e", "u", "i", "click", 1.0)])
        log.close()
    elif state == "of another store":
        fill(Settings(store=tmp_path / "another", events_url=other))
    for name, use in uses(wrong, tmp_path).items():
        with pytest.raises(WrongDatabase, match="events_url") as refusal:
            use()
        assert str(settings.store) in refusal.value.message, name
        assert "other.sqlite" in refusal.value.message
    assert files(settings) == before
    assert compact(settings, days=60).events == 0
    events = open_event_log(settings)
    assert sum(len(batch) for _, batch in events.batches()) == 5
    events.close()


def test_an_empty_database_is_not_bound(url: str, tmp_path: Path, run: Run) -> None:
    settings = configured(tmp_path, url)
    log = EventLog(url)
    log.add([Event("e", "u", "i", "click", 1.0)])
    log.close()
    for command in (["quarantine", "list"], ["quarantine", "scan"], ["compact", "--keep-days", "90"], ["erase", "x"]):
        assert run(*command, "--store", settings.store)[0] == 0  # without VETRINA_EVENTS_URL
    assert (settings.store / "events.sqlite").exists()
    assert not (settings.store / FILE).exists()
    open_database(settings).close()
    assert (settings.store / FILE).exists()
    with pytest.raises(WrongDatabase):
        open_database(Settings(store=settings.store))


def test_the_first_write_binds_unless_another_database_was_first(url: str, other: str, tmp_path: Path) -> None:
    settings = configured(tmp_path, url)
    own, late = open_event_log(settings), open_event_log(settings.model_copy(update={"events_url": other}))
    UserPrivacy(own.database, settings.store).erase("nobody")
    assert not (settings.store / FILE).exists()
    own.add([Event("e", "u", "i", "click", 1.0)])
    assert store_database._read_id(own.database) == (settings.store / FILE).read_text().strip()
    for _ in range(2):
        with pytest.raises(WrongDatabase, match="other"):
            late.add([Event("e", "u", "i", "click", 1.0)])
    own.close()
    late.close()


@pytest.mark.parametrize("has_id", [True, False])
def test_a_refused_database_is_not_changed(url: str, tmp_path: Path, has_id: bool) -> None:
    settings = Settings(store=tmp_path / "store")
    fill(settings)
    compact(settings, days=60)
    if not has_id:
        (settings.store / FILE).unlink()
    before = inspect(create_engine(url)).get_table_names()
    with pytest.raises(WrongDatabase):
        open_database(settings.model_copy(update={"events_url": url}))
    assert inspect(create_engine(url)).get_table_names() == before == []
    if url.startswith("sqlite"):
        assert Path(url.removeprefix("sqlite:///")).stat().st_size == 0


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    settings = Settings(store=tmp_path / "store")
    with monkeypatch.context() as patch:
        patch.setattr(store_database, "write_file", fail)
        with pytest.raises(StoreUnavailable, match=f"{settings.store / FILE} .*No space left on device"):
            fill(settings)
    fill(settings)
    assert (settings.store / FILE).exists()
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="file/store"):
        open_database(Settings(store=tmp_path / "file" / "store"))


def test_the_command_ends_with_the_error_and_keeps_the_files(
    url: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "shop" / "store"
    settings = Settings(store=store, events_url=url)
    fill(settings)
    monkeypatch.setenv("VETRINA_EVENTS_URL", url)
    assert run("compact", "--store", store)[0] == 0
    before = files(settings)
    monkeypatch.delenv("VETRINA_EVENTS_URL")
    code, _, errors = run("compact", "--store", store)
    assert code != 0
    assert "VETRINA_EVENTS_URL" in errors.replace("\n", "")
    assert files(settings) == before != set()


def test_a_store_and_database_of_version_0_1_are_bound_at_first_use(url: str, other: str, tmp_path: Path) -> None:
    settings = configured(tmp_path, url)
    fill(settings)
    compact(settings, days=60)
    database = open_database(settings)
    with database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM store_id")
    database.close()
    (settings.store / FILE).unlink()
    with pytest.raises(WrongDatabase, match="names none of the 2 files"):
        open_database(settings.model_copy(update={"events_url": other}))
    assert not (settings.store / FILE).exists()
    database = open_database(settings)
    assert store_database._read_id(database) == (settings.store / FILE).read_text().strip()
    database.close()


def test_a_kill_between_the_two_writes_binds_later(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configured(tmp_path, url)

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_database, "write_file", kill)
        with pytest.raises(KeyboardInterrupt):
            fill(settings)
    database = open_database(settings)
    assert store_database._read_id(database) == (settings.store / FILE).read_text().strip()
    database.close()


def test_a_backup_without_an_id_is_bound_after_the_id_file_is_removed(tmp_path: Path) -> None:
    settings = configured(tmp_path, "")
    backup = tmp_path / "backup.sqlite"
    log = EventLog(f"sqlite:///{backup}")
    log.add([Event("e", "u", "i", "click", 1.0)])
    log.close()
    fill(settings)
    for file in settings.store.glob("events.sqlite*"):
        file.unlink()
    shutil.copy(backup, settings.store / "events.sqlite")
    with pytest.raises(WrongDatabase, match=f"remove .*{FILE}"):
        open_database(settings)
    (settings.store / FILE).unlink()
    events = open_event_log(settings)
    assert events.count() == 1
    events.close()
