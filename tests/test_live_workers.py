"""Live changes with several workers: at once in one, within a second in all."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.live import (
    make_store,
    row,
    state,
    statuses,
    title,
)
from helpers.service import free_port, good, is_ready, until

from index.journal import Journal
from serve import cli
from serve.core.settings import Settings
from serve.engine.query import Query
from serve.engine.response import local_hits_response
from serve.jobs.build import build
from serve.live.change_record import LiveChange, journal_folder
from serve.live.replica import open_engine
from serve.release.repository import current_name

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Workers:
    """`vetrina serve --workers 3` over a store of twelve items."""

    settings: Settings
    port: int

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Over a connection of its own, which any of the workers may take; None for what is not there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"content-type": "application/json"})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        assert response.status in (200, 404), data
        return json.loads(data) if response.status == 200 else None

    def put(self, *rows: dict[str, Any]) -> list[str]:
        return statuses(self.ask("PUT", "/v1/items", {"items": rows})["items"])

    def patch(self, **fields: Any) -> list[str]:
        return statuses(self.ask("PATCH", "/v1/items", {"items": [fields]})["items"])

    def search(self, words: str, **body: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("POST", "/v1/search", {"text": words, "k": 100, **body})["items"]
        return found

    def ids(self, words: str, **body: Any) -> set[str]:
        return {item["item_id"] for item in self.search(words, **body)}

    def soon_all(self, is_new: Callable[[], bool]) -> None:
        """From a second after a change on, no worker shows the state of before."""
        time.sleep(1)
        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(lambda _: is_new(), range(36)))


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    configured = make_store(tmp_path_factory.mktemp("workers"))
    port = free_port()
    command = [sys.executable, "-c", "from serve.cli import main; main()", "serve", "--store", str(configured.store)]
    options = ["--workers", "3", "--port", str(port)]
    process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        until(lambda: is_ready(port) or process.poll() is not None)
        time.sleep(1)  # until the others are there too
        yield Workers(configured, port)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def last_change(configured: Settings) -> LiveChange:
    *_, record = Journal(journal_folder(configured.store)).read()
    return LiveChange.from_record(record)


def test_a_put_is_visible_at_once_here_and_soon_everywhere(workers: Workers) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{workers.port}", trust_env=False) as same_worker:

        def found(words: str) -> str:
            answer = same_worker.post("/v1/search", json={"text": words, "k": 1}).json()
            return str(answer["items"][0]["item_id"])

        for number, status in ((30, "created"), (31, "updated")):
            response = same_worker.put("/v1/items", json={"items": [row("put", number)]})
            assert statuses(good(response)["items"]) == [status]
            assert found(title(number)) == "put"
            assert same_worker.get("/v1/items/put").json()["item"]["title"] == title(number)
    workers.soon_all(
        lambda: (
            workers.search(title(31))[0]["item_id"] == "put"
            and workers.ask("GET", "/v1/items/put")["item"]["title"] == title(31)
        )
    )
    rows = last_change(workers.settings).rows
    assert rows is not None
    assert [len(of.vectors) for of in rows.values()] == [1]


def test_a_patch_changes_what_filters_find_and_runs_no_encoder(workers: Workers) -> None:
    dear = {"price": {"gte": 500}}
    assert workers.ids("hat", filter=dear) == set()
    assert workers.patch(item_id="i4", price=600, available=False) == ["updated"]
    workers.soon_all(
        lambda: (
            workers.ids("hat", filter=dear) == {"i4"}
            and workers.ids("hat", filter={"available": False}) == {"i4"}
            and "i4" not in workers.ids("hat", filter={"price": 4})
        )
    )
    change = last_change(workers.settings)
    assert (change.kind, change.rows, change.fields) == ("patch", None, {"price": 600.0, "available": False})
    assert workers.put(row("i4", 4, price=700)) == ["updated"]
    change = last_change(workers.settings)
    assert (change.kind, change.rows) == ("put", None), "only the price is another, and yet vectors were written"


def test_a_deleted_item_is_never_shown_again(workers: Workers) -> None:
    assert "i5" in workers.ids(title(5))
    assert statuses(workers.ask("DELETE", "/v1/items/i5")["items"]) == ["deleted"]

    def is_gone() -> bool:
        one = workers.ask("GET", "/v1/items/i6/similar?k=100")["items"]
        several = workers.ask("POST", "/v1/similar", {"item_ids": ["i6", "i7"], "k": 100})["items"]
        found = workers.ids(title(5)) | workers.ids(title(5), filter={"price": 5}) | workers.ids("x", like=["i6"])
        return (
            "i5" not in found | {item["item_id"] for item in (*one, *several)}
            and len(one) > 5
            and workers.ask("GET", "/v1/items/i5") is None
            and workers.ask("GET", "/v1/items/i5/similar") is None
            and workers.ask("POST", "/v1/search", {"like": ["i5"]}) is None
        )

    workers.soon_all(is_gone)
    assert workers.ask("DELETE", "/v1/items/i5") is None
    assert workers.put(row("i5", 5)) == ["created"]
    workers.soon_all(lambda: workers.search(title(5))[0]["item_id"] == "i5")


def test_each_worker_reports_the_counts_of_all(workers: Workers) -> None:
    def answers() -> float:
        connection = http.client.HTTPConnection("127.0.0.1", workers.port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        lines = [line for line in text.splitlines() if line.startswith("vetrina_responses_total{")]
        return sum(float(line.split()[-1]) for line in lines)

    before = answers()
    for _ in range(30):
        workers.ask("POST", "/v1/recommend", {"k": 3})
    assert {answers() for _ in range(12)} == {before + 30}


def test_each_row_has_a_status_of_its_own(workers: Workers) -> None:
    def sent(method: str, body: dict[str, Any]) -> list[tuple[str, str, str]]:
        outcomes = workers.ask(method, "/v1/items", body)["items"]
        assert all(bool(outcome["message"]) == (outcome["status"] == "rejected") for outcome in outcomes)
        return [(outcome["status"], outcome["code"], outcome["field"]) for outcome in outcomes]

    rows = [row("i8", 8), row("i9", 33), row("s1", 34), row("s1", 35), {"title": "x"}, row("s2", 36, titel="x")]
    rows += [{"item_id": "s3", "price": 5}, {"item_id": "s4", "title": "free thing", "price": "free"}]
    assert sent("PUT", {"items": rows}) == [
        ("unchanged", "", ""),
        ("updated", "", ""),
        ("created", "", ""),
        ("rejected", "duplicate_id", "item_id"),
        ("rejected", "missing_id", "item_id"),
        ("rejected", "unknown_field", "titel"),
        ("rejected", "nothing_to_embed", "title"),
        ("created", "", ""),
    ]
    patches: list[dict[str, Any]] = [
        {"item_id": "i8", "price": 80},
        {"item_id": "i9", "price": 33},
        {"item_id": "nope", "price": 1},
        {"item_id": "i8", "price": 81},
        {"item_id": "s1", "title": "x"},
        {"item_id": "s1"},
        {"price": 5},
    ]
    assert sent("PATCH", {"items": patches}) == [
        ("updated", "", ""),
        ("unchanged", "", ""),
        ("unknown", "", ""),
        ("rejected", "duplicate_id", "item_id"),
        ("rejected", "not_patchable", "title"),
        ("rejected", "nothing_to_patch", "item_id"),
        ("rejected", "missing_id", "item_id"),
    ]
    assert sent("DELETE", {"item_ids": ["s1", "nope", "s1", "s4"]}) == [
        ("deleted", "", ""),
        ("unknown", "", ""),
        ("rejected", "duplicate_id", "item_id"),
        ("deleted", "", ""),
    ]
    workers.soon_all(lambda: workers.ask("GET", "/v1/items/i8")["item"]["price"] == 80)


def test_workers_that_all_change_the_same_items_come_to_agree(workers: Workers) -> None:
    def hammer(seed: int) -> None:
        probability = random.Random(seed)
        for _ in range(25):
            item_id = f"h{probability.randrange(4)}"
            kind = probability.choice(["put", "put", "patch", "delete"])
            if kind == "put":
                workers.put(row(item_id, probability.randrange(40, 44), price=probability.randrange(3)))
            elif kind == "patch":
                workers.patch(item_id=item_id, price=probability.randrange(3))
            else:
                workers.ask("DELETE", f"/v1/items/{item_id}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(hammer, range(4)))

    def without_times(items: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
        return [(item["item_id"], item["score"], item["price"]) for item in items]

    engine = open_engine(workers.settings)
    expected = local_hits_response(engine, lambda engine: engine.search(Query(k=100, text=title(41))))["items"]
    assert {"i0", "i11"} < {item["item_id"] for item in expected}
    workers.soon_all(lambda: without_times(workers.search(title(41))) == without_times(expected))


def test_live_changes_survive_going_back_and_forth(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    first = current_name(workers.settings.store)
    before = state(open_engine(workers.settings))
    assert workers.ask("GET", "/v1/releases")["changes"]["changed"] > 0
    second = build(workers.settings).manifest.release
    workers.soon_all(lambda: workers.ask("GET", "/readyz")["release"] == second)
    assert workers.ask("GET", "/v1/releases")["changes"] == {"changed": 0, "deleted": 0, "gone": 0}
    assert workers.put(row("kept", 50), row("i2", 2, price=222)) == ["created", "updated"]
    assert statuses(workers.ask("DELETE", "/v1/items", {"item_ids": ["i1"]})["items"]) == ["deleted"]
    workers.soon_all(lambda: workers.ask("GET", "/v1/releases")["changes"] == {"changed": 2, "deleted": 1, "gone": 1})
    expected = before.keys() - {"i1"} | {"kept"}

    def is_answering(release: str | None) -> bool:
        answer = workers.ask("POST", "/v1/search", {"text": title(50), "k": 100})
        prices = {item["item_id"]: item["price"] for item in answer["items"]}
        return (
            answer["release"] == release
            and prices.keys() == expected
            and answer["items"][0]["item_id"] == "kept"
            and prices["i2"] == 222
            and prices["i8"] == 80
        )

    assert is_answering(second)
    answer = workers.ask("POST", f"/v1/releases/{first}/activate")
    assert answer["release"] == first
    assert [(each["release"], each["current"]) for each in answer["releases"]] == [(second, False), (first, True)]
    workers.soon_all(lambda: is_answering(first))
    assert workers.ask("POST", "/v1/releases/20010101T000000000-00000000/activate") is None
    workers.ask("POST", f"/v1/releases/{second}/activate")
    workers.soon_all(lambda: is_answering(second))
    monkeypatch.setattr("sys.argv", ["vetrina", "rollback", "--store", str(workers.settings.store)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    workers.soon_all(lambda: is_answering(first))
    build(workers.settings)
    assert state(open_engine(workers.settings)).keys() == expected
