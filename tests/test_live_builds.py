"""Live changes and builds: nothing is lost when feeds are built, or when a server or a build is killed."""

import multiprocessing
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.live import agree, changed_at_random, make_store, opened, row, state, statuses, title, write_feed
from helpers.service import free_port, is_ready, until

from serve import cli
from serve.core.settings import Settings
from serve.engine.query import Query
from serve.jobs.build import build
from serve.live.replica import open_engine
from serve.release.repository import current_name, releases_folder


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    return make_store(tmp_path)


def test_live_folded_and_built_anew_the_answers_are_the_same(small: Settings, tmp_path: Path) -> None:
    live, probability = opened(small), random.Random(5)
    model = {f"i{number}": row(f"i{number}", number) for number in range(12)}
    changed_at_random(live, model, probability, 60)
    anew = Settings(store=tmp_path / "anew")
    build(anew, write_feed(tmp_path / "anew.jsonl", [*model.values()]))
    agree(live.engine, open_engine(anew))
    agree(open_engine(small), live.engine)  # a process that starts now reads it all from the journal
    report = build(small)
    assert report.published
    assert [space.encoded for space in report.spaces] == [0]
    folded = open_engine(small)
    assert not folded.snapshot.is_changed
    agree(folded, open_engine(anew))
    live.refresh()
    assert live.engine.snapshot.release.name == report.manifest.release
    changed_at_random(live, model, probability, 20)
    agree(open_engine(small), live.engine)


@pytest.mark.parametrize("meanwhile", ["renamed", "deleted"])
def test_a_process_that_is_behind_may_change_items_that_others_changed(small: Settings, meanwhile: str) -> None:
    """A put that seems to change the price alone, as the process has not seen yet what another one did."""
    behind, ahead = opened(small), opened(small)
    score = {one.item_index: one.score for one in behind.engine.search(Query(k=100, text=title(3)))}[3]
    ahead.items.put([row("i3", 50)]) if meanwhile == "renamed" else ahead.items.delete(["i3"])
    assert statuses(behind.items.put([row("i3", 3, price=99.0)])) == [
        "updated" if meanwhile == "renamed" else "created"
    ]
    ahead.refresh()
    for engine in (behind.engine, ahead.engine, open_engine(small)):
        best = engine.search(Query(k=1, text=title(3), filter={"price": 99}))[0]
        assert engine.snapshot.item_id(best.item_index) == "i3"
        assert best.score == pytest.approx(score, abs=1e-3)
    assert [space.encoded for space in build(small).spaces] == [0]
    agree(open_engine(small), behind.engine)


def test_nothing_that_comes_while_a_build_runs_is_lost(small: Settings) -> None:
    live = opened(small)
    model = {f"i{number}": row(f"i{number}", number) for number in range(12)}
    live.items.put([row("n0", 20)])
    live.items.delete(["i1"])
    live.items.patch([{"item_id": "i2", "price": 7.5}])
    before = current_name(small.store)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(build, small)
        names = iter(f"n{number}" for number in range(21, 56))
        while not running.done():
            if (name := next(names, None)) is None:
                break
            live.items.put([row(name, int(name[1:]))])
            live.items.patch([{"item_id": f"i{int(name[1:]) % 10 + 2}", "price": 1000 + float(name[1:])}])
            live.refresh()
            assert name in state(live.engine)
        report = running.result()
    acknowledged = state(live.engine)
    assert len(acknowledged) > len(model) + 2
    live.refresh()
    assert live.engine.snapshot.release.name == report.manifest.release != before
    assert live.engine.snapshot.is_changed, "nothing came while the build ran"
    assert state(live.engine) == state(open_engine(small)) == acknowledged
    again = build(small)
    for space in (*report.spaces, *again.spaces):
        assert space.encoded == 0
    folded = open_engine(small)
    assert not folded.snapshot.is_changed
    assert state(folded) == acknowledged
    agree(folded, live.engine)


def feed_of(configured: Settings, written: float, **changed: Any) -> Path:
    """The first twelve items as they always were, but for i2."""
    rows = [row(f"i{number}", number) for number in range(12)]
    rows[2] |= changed
    return write_feed(configured.store.parent / "feed.jsonl", rows, written)


def test_what_is_in_no_release_yet_wins_over_any_feed(small: Settings) -> None:
    live = opened(small)
    live.items.delete(["i1"])
    live.items.patch([{"item_id": "i2", "price": 7.5}])
    live.items.put([row("n1", 30)])
    build(small, feed_of(small, time.time() + 1000, price=1.0, title="green tin whistle"))
    found = state(open_engine(small))
    assert found.keys() == {f"i{number}" for number in range(12)} - {"i1"} | {"n1"}
    assert (found["i2"].price, found["i2"].title) == (7.5, "green tin whistle")


def test_a_feed_wins_over_what_was_released_before_it_was_written(small: Settings) -> None:
    live = opened(small)
    live.items.delete(["i1"])
    live.items.patch([{"item_id": "i2", "price": 7.5}])
    build(small)
    live.refresh()
    live.items.put([row("n1", 30)])
    build(small, feed_of(small, time.time() + 1000, price=1.0))
    found = state(open_engine(small))
    assert found.keys() == {f"i{number}" for number in range(12)} | {"n1"}, "the feed has i1 again, and n1 is new"
    assert found["i2"].price == 1.0


def test_an_old_feed_undoes_nothing_however_often_it_is_built(tmp_path: Path) -> None:
    """Each night the same file, as the shop exports once a week; and each day something changes live."""
    configured = make_store(tmp_path, keep_releases=2)
    live = opened(configured)
    live.items.delete(["i1"])
    live.items.put([row("n1", 30)])
    live.items.patch([{"item_id": "i2", "price": 7.5}])
    for night in range(3):
        live.items.patch([{"item_id": "i3", "price": 100.0 + night}])
        acknowledged = state(live.engine)
        assert build(configured, tmp_path / "feed.jsonl").published
        live.refresh()
        assert state(live.engine) == state(open_engine(configured)) == acknowledged, f"night {night}"


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts processes that have everything imported already; what runs in them is Vetrina's own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["serve.jobs.build", "serve.http.app", "serve.cli", "uvicorn", "pytest"])
    return context


@contextmanager
def served_apart(processes: Any, configured: Settings) -> Iterator[tuple[BaseProcess, httpx.Client]]:
    """`vetrina serve` in a process of its own, that may be killed, and a client of it."""
    port = free_port()
    asked = {"store": configured.store, "host": "127.0.0.1", "port": port, "workers": 1}
    process = processes.Process(target=cli.service.serve, kwargs=asked)
    process.start()
    try:
        until(lambda: is_ready(port) or not process.is_alive())
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield process, client
    finally:
        process.kill()
        process.join()


def change_until_it_dies(client: httpx.Client, name: str, expected: dict[str, float | None]) -> None:
    """Put, patch and delete; `expected` gets the prices of what was acknowledged and forgets what is unsure."""
    under_way: list[str] = []
    with suppress(httpx.HTTPError):
        for number in range(10_000):
            _, patched, deleted = under_way = [f"{name}-{number}-{part}" for part in range(3)]
            client.put("/v1/items", json={"items": [row(item_id, 1) for item_id in under_way]}).raise_for_status()
            expected |= dict.fromkeys(under_way, 1.0)
            under_way = [patched]
            client.patch("/v1/items", json={"items": [{"item_id": patched, "price": 5}]}).raise_for_status()
            expected[patched] = 5.0
            under_way = [deleted]
            client.delete(f"/v1/items/{deleted}").raise_for_status()
            expected[deleted] = None
    for item_id in under_way:
        expected.pop(item_id, None)


def test_what_a_killed_server_acknowledged_is_there_when_it_is_back(small: Settings, processes: Any) -> None:
    """SIGKILL amid changes; what was under way then may be there or not."""
    probability = random.Random(3)
    expected: dict[str, float | None] = {f"i{number}": float(number) for number in range(12)}
    for life in range(3):
        with served_apart(processes, small) as (process, client):
            for item_id, price in expected.items():
                response = client.get(f"/v1/items/{item_id}")
                assert (response.json()["item"]["price"] if response.status_code == 200 else None) == price, item_id
            if life < 2:
                before = len(expected)
                threading.Timer(probability.uniform(0.1, 0.4), process.kill).start()
                change_until_it_dies(client, f"n{life}", expected)
                process.join()
                assert process.exitcode == -signal.SIGKILL
                assert len(expected) > before + 3, "it was killed before it took much"


def test_a_build_killed_at_any_instant_loses_no_change(small: Settings, processes: Any) -> None:
    """SIGKILL while it folds, encodes and publishes, with new changes each time; then one build to the end."""
    probability = random.Random(4)
    live = opened(small)
    model = {f"i{number}": row(f"i{number}", number) for number in range(12)}
    feed = small.store.parent / "feed.jsonl"

    def started(with_feed: bool) -> BaseProcess:
        process: BaseProcess = processes.Process(target=build, args=(small, feed if with_feed else None))
        process.start()
        return process

    def wait_for_a_draft(process: BaseProcess) -> None:
        until(lambda: any(releases_folder(small.store).glob(".draft-*")) or not process.is_alive())

    changed_at_random(live, model, probability, 5)
    began = time.monotonic()
    whole = started(with_feed=True)
    whole.join()
    took = time.monotonic() - began
    assert whole.exitcode == 0
    codes = []
    for kill in range(6):
        changed_at_random(live, model, probability, 5)
        process = started(with_feed=kill % 2 == 1)
        if kill < 3:
            time.sleep(probability.uniform(0, took))
        else:  # near the end, when it writes the release and moves to it
            wait_for_a_draft(process)
            time.sleep(probability.uniform(0, 0.05))
        process.kill()
        process.join()
        codes.append(process.exitcode)
        now = open_engine(small)  # the release opens whole, and every change is in it or on it
        assert {item_id: item.price for item_id, item in state(now).items()} == {
            item_id: each["price"] for item_id, each in model.items()
        }
        live.refresh()
        agree(now, live.engine)
    assert codes.count(-signal.SIGKILL) >= 3
    assert [space.encoded for space in build(small, feed).spaces] == [0]
    folded = open_engine(small)
    assert not folded.snapshot.is_changed
    agree(folded, live.engine)
    assert not [*releases_folder(small.store).glob(".*"), *(small.store / "catalogue").glob(".new-*")]
