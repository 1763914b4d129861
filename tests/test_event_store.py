"""The event log: nothing twice, nothing lost, in several processes, on SQLite and on PostgreSQL."""

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from embed.behaviour import Event, as_batch
from serve.core.errors import BadRequest, StoreUnavailable
from serve.storage import event_log
from serve.storage.event_log import EventLog
from serve.storage.event_statistics import EventStatistics
from serve.storage.quarantine import Quarantine

T0 = 1767225600.0


def click(number: int, user: str = "u", **fields: object) -> Event:
    return replace(Event(f"e{number}", user, f"i{number % 7}", "click", T0 + number), **fields)


@pytest.fixture
def store(url: str) -> Iterator[EventLog]:
    opened = EventLog(url)
    yield opened
    opened.close()


def everything(store: EventLog, after: int = 0) -> list[Event]:
    return [Event(*row.values()) for _, batch in store.batches(after) for row in batch.to_pylist()]


def test_what_is_added_comes_back_in_order(store: EventLog, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "PAGE_ROWS", 3)
    full = Event("full", "ü", "i/1", "rating", T0 + 0.25, -1.5, "r", 3, "s", "d", "q")
    events = [click(3), click(1), full, click(2)]
    assert store.add(events) == [True] * 4
    assert store.add([]) == []
    again = EventLog(url)
    assert everything(store) == everything(again) == events
    assert [number for number, _ in store.batches()] == [3, 4]
    assert everything(store, after=3) == events[3:]
    assert pa.Table.from_batches([batch for _, batch in store.batches()]).schema == as_batch([]).schema
    assert store.count() == 4


def test_an_event_counts_once_however_often_it_is_sent(store: EventLog) -> None:
    later = replace(click(1), timestamp=T0 + 99)
    assert store.add([click(1), click(1), later, click(2)]) == [True, False, False, True]
    assert store.add([later, click(2), click(3)]) == [False, False, True]
    assert everything(store) == [click(1), click(2), click(3)]


def test_recent_events_are_those_of_the_user_by_time(store: EventLog) -> None:
    order = list(range(40))
    random.Random(0).shuffle(order)
    store.add([click(number, "ab"[number % 2]) for number in order])
    store.add([click(100 + number, "a", timestamp=T0 + 38) for number in range(2)])  # of one time: as they came
    assert store.recent("a", 3) == [click(38, "a"), *(click(n, "a", timestamp=T0 + 38) for n in (100, 101))]
    assert [event.timestamp - T0 for event in store.recent("b", 100)] == list(range(1, 40, 2))
    assert store.recent("nobody", 5) == []


def test_what_was_searched_for_and_then_taken_to_is_told_by_how_many_did(store: EventLog) -> None:
    words = [("mug", "i1", "a"), ("mug", "i1", "a"), ("mug", "i2", "a"), ("mug", "i2", "b"), ("cup", "i3", "c")]
    store.add([click(number, user, item_id=item, query=said) for number, (said, item, user) in enumerate(words)])
    store.add([click(9), click(10, query="lamp", type="impression"), click(11, "robot", query="mug", item_id="i1")])
    Quarantine(store.database).add({"robot": "many"})
    assert EventStatistics(store.database).query_interactions(10) == [("mug", "i2"), ("cup", "i3"), ("mug", "i1")]
    assert EventStatistics(store.database).query_interactions(1) == [("mug", "i2")]


def test_a_log_of_an_earlier_version_gets_the_columns_that_it_lacks(store: EventLog, url: str) -> None:
    store.add([click(1)])
    with store.database.transaction() as connection:
        connection.exec_driver_sql("ALTER TABLE events DROP COLUMN query")
    later = EventLog(url)
    assert later.add([click(2, query="mug")]) == [True]
    assert everything(later) == [click(1), click(2, query="mug")]
    later.close()


def test_a_large_batch_is_one_transaction(store: EventLog) -> None:
    assert all(store.add([click(number) for number in range(3_000)]))
    assert store.count() == 3_000


WRITER = """
import sys
from embed.behaviour import Event
from serve.storage.event_log import EventLog

store = EventLog(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(sys.argv[3])):
    events = [Event(f"{sys.argv[2]}-{number}-{part}", "u", "i", "click", 1767225600.0 + number) for part in range(3)]
    assert all(store.add(events))
    print(number, flush=True)
"""


def writer(url: str, name: str, times: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", WRITER, url, name, str(times)]
    root = Path(__file__).parents[1]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_processes_write_at_once(store: EventLog, url: str) -> None:
    processes = [writer(url, name, 40) for name in "abc"]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert store.count() == 3 * 40 * 3


def test_what_was_acknowledged_survives_kills(store: EventLog, url: str) -> None:
    probability = random.Random(1)
    said: set[str] = set()
    for name in map(str, range(4)):
        process = writer(url, name, 1_000_000)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        for _ in range(probability.randrange(1, 30)):
            said.add(f"{name}-{int(process.stdout.readline())}")
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        said |= {f"{name}-{int(line)}" for line in rest.decode().split("\n")[:-1]}
    held: dict[str, int] = {}
    for event in everything(store):
        batch = event.event_id.rpartition("-")[0]
        held[batch] = held.get(batch, 0) + 1
    assert said <= held.keys()
    assert set(held.values()) == {3}, "a batch is there in part"


def test_a_database_that_cannot_be_used_is_named_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database " * 200)
    with pytest.raises(StoreUnavailable, match=r"text\.db"):
        EventLog(f"sqlite:///{tmp_path / 'text.db'}")
    for url in ("nonsense", "mysql://u:secret@h/d", "oracle://u:secret@h/d"):
        with pytest.raises(BadRequest) as error:
            EventLog(url)
        assert "secret" not in str(error.value)
