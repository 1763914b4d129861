"""Live changes: at once here, soon everywhere, after every kill, and in the next build."""

import http.client
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from helpers.filters import passes
from helpers.service import free_port, good, is_ready, refused, served, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed.catalogue import Item
from embed.encoders import choose_device
from index.errors import Damaged
from index.journal import Journal
from serve import cli
from serve.core.errors import StoreUnavailable
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query import Query
from serve.engine.query_encoders import Encoders
from serve.engine.response import ask
from serve.jobs.build import build
from serve.jobs.doctor import examine
from serve.live.change_record import LiveChange, journal_folder
from serve.live.replica import open_engine
from serve.live.runtime import ServiceRuntime
from serve.moderation.policy import ContentPolicy
from serve.release.overlay import ReleaseOverlay
from serve.release.release import Release
from serve.release.repository import current_name, open_current, releases_folder
from serve.release.snapshot import ItemVectors, Snapshot
from serve.search.filters import compile_filter

ROOT = Path(__file__).parents[1]
COLOURS = ("red", "blue", "green", "yellow", "black", "white", "purple")
THINGS = ("canvas shoe", "wool hat", "tea pot", "rain coat", "leather bag", "oak table", "desk lamp", "tin whistle")
LONG_AGO = time.time() - 100_000


def title(number: int) -> str:
    """A title for each number up to 56, no two alike."""
    return f"{COLOURS[number % 7]} {THINGS[number // 7]}"


def row(item_id: str, number: int, **fields: Any) -> dict[str, Any]:
    return {"item_id": item_id, "title": title(number), "price": float(number), "currency": "EUR", **fields}


def write_feed(path: Path, rows: list[dict[str, Any]], written: float = LONG_AGO) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    os.utime(path, (written, written))
    return path


def make_store(folder: Path, **options: Any) -> Settings:
    """A store of twelve items without images, i0 to i11, built from a feed that was written long ago."""
    configured = Settings(store=folder / "store", **options)
    build(configured, write_feed(folder / "feed.jsonl", [row(f"i{number}", number) for number in range(12)]))
    return configured


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    return make_store(tmp_path)


def opened(configured: Settings) -> ServiceRuntime:
    """What answers in a process of its own, which looks at the store only when it is told to."""
    live = ServiceRuntime(configured)
    live.refresh()
    return live


def state(engine: Engine) -> dict[str, Item]:
    """Every item that is there."""
    view = engine.view
    there = np.setdiff1d(view.everything, view.deleted).tolist()
    return {view.text(number): view.item(number) for number in there}


def statuses(answer: Any) -> list[str]:
    return [each["status"] if isinstance(each, dict) else each.status for each in answer]


# ------------------------------------------------------------------------------------------------- a view and its model


@dataclass(frozen=True)
class UserContext:
    """What the model holds of an item: its rows by space, the first of which is the item's own vector."""

    item: Item
    rows: Mapping[str, Any]


class Shelf:
    """A release with changes on it, and beside it a plain dict that has to come to the same."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.live = ReleaseOverlay(release)
        self.model = {
            release.ids.text(number): UserContext(
                release.item(number), {name: index.rows_of(number)[1] for name, index in release.spaces.items()}
            )
            for number in range(release.manifest.items)
        }
        self.touched: set[str] = set()

    def put(self, item_id: str, seed: int) -> None:
        """Give an item other content: a few rows near those that items of the release have."""
        probability = np.random.default_rng(seed)
        item = Item(
            item_id, f"thing {seed}", brand=["Asti", "Luma", None][seed % 3], price=float(seed), available=seed % 2 == 0
        )
        rows = {}
        for place, (name, index) in enumerate(self.release.spaces.items()):
            count = (seed + place) % 4  # none in some spaces, in rare cases none at all
            near = [
                index.rows_of(int(number))[1][0]
                for number in probability.integers(self.release.manifest.items, size=count)
            ]
            vectors = np.array(near, np.float32).reshape(count, index.space.dim)
            vectors = vectors + 0.02 * probability.standard_normal(vectors.shape, np.float32)
            rows[name] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.live.put(item, {name: ItemVectors(range(len(vectors)), vectors) for name, vectors in rows.items()})
        self._note(item_id, UserContext(item, rows))

    def put_price(self, item_id: str, price: int) -> None:
        """Put the item again with what no encoder reads changed."""
        if item_id in self.model:
            before = self.model[item_id]
            item = replace(before.item, price=float(price), domain="sale")
            self.live.put(item, None)
            self._note(item_id, UserContext(item, before.rows))

    def patch(self, item_id: str, price: int) -> None:
        self.live.patch(item_id, {"price": float(price), "available": price > 9})
        if item_id in self.model:
            before = self.model[item_id]
            item = replace(before.item, price=float(price), available=price > 9)
            self._note(item_id, UserContext(item, before.rows))

    def delete(self, item_id: str, _: int) -> None:
        self.live.delete(item_id)
        if item_id in self.model:
            self._note(item_id, None)

    def _note(self, item_id: str, known: UserContext | None) -> None:
        self.touched.add(item_id)
        self.model.pop(item_id, None)
        if known:
            self.model[item_id] = known


def scores(
    model: Mapping[str, UserContext], backgrounds: Mapping[str, Any], queries: Mapping[str, Any]
) -> dict[str, float]:
    """The score of every item that is in any of the spaces; fused as serve.search.fusion says, in plain words."""
    by_space = {
        name: {
            item_id: float((known.rows[name] @ query).max())
            for item_id, known in model.items()
            if len(known.rows[name])
        }
        for name, query in queries.items()
    }
    if len(by_space) == 1:
        return next(iter(by_space.values()))
    total = dict.fromkeys((item_id for found in by_space.values() for item_id in found), 0.0)
    for name, found in by_space.items():
        background = backgrounds[name] @ queries[name] if backgrounds else np.array(list(found.values()))
        for item_id, score in found.items():
            total[item_id] += (score - background.mean()) / background.std() / len(by_space)
    return total


FILTERS: list[dict[str, Any]] = [
    {},
    {"price": {"lte": 12}},
    {"brand": {"in": ["Asti", "Luma"]}, "available": True},
    {"not": {"domain": "sale"}},
]
SPACES = [("text",), ("image",), ("image", "text")]


def check(
    view: Snapshot, model: Mapping[str, UserContext], encoders: Encoders, configured: Settings, ids: list[str]
) -> None:
    """Everything that can be asked of a view, against the model."""
    for item_id in ids:
        number = view.item_index(item_id)
        assert (number is not None) == (item_id in model), item_id
        if number is not None:
            assert (view.text(number), view.item(number)) == (item_id, model[item_id].item)
    engine = Engine(view, encoders, configured)
    is_exact = all(index.factory == "Flat" for index in view.spaces.values())
    for number, given_filter in enumerate(FILTERS):
        matching = {item_id for item_id, known in model.items() if passes(known.item, given_filter)}
        compiled = compile_filter(given_filter)
        if compiled:
            assert {view.text(int(place)) for place in np.flatnonzero(view.selection(compiled).mask)} == matching
        for spaces in SPACES:
            in_all = [item_id for item_id in model if all(len(model[item_id].rows[space]) for space in spaces)]
            liked = in_all[-1 - number % 2 :]  # those that came last, one or two of them
            sums = {space: sum(model[item_id].rows[space][0] for item_id in liked) for space in spaces}
            queries = {space: vector / np.linalg.norm(vector) for space, vector in sums.items()}
            right = scores(model, {} if is_exact else view.release.samples, queries)
            expected = sorted((right[each] for each in matching & right.keys() - {*liked}), reverse=True)
            for k in (3, 100):
                answers = [engine.similar(liked, k, spaces, given_filter)]
                answers.append(engine.search(Query(k=k, like=liked, spaces=spaces, filter=given_filter)))
                for answer in answers:
                    found = {view.text(one.item_index): one.score for one in answer}
                    assert len(found) == len(answer) == min(k, len(expected))
                    assert found.keys() <= matching - {*liked}
                    assert found == pytest.approx({item_id: right[item_id] for item_id in found}, abs=2e-3)
                    if is_exact or len(spaces) == 1:
                        assert list(found.values()) == pytest.approx(expected[:k], abs=2e-3)


@pytest.fixture(scope="module")
def few_chunks() -> Iterator[None]:
    """Chunks of changes are merged when there are more than two already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.release.overlay.MAX_CHUNKS", 2)
        yield


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put_price", "patch", "delete", "look"]), st.integers(0, 7), st.integers(1, 20)
    ),
    max_size=20,
)


@pytest.mark.parametrize("is_exact", [True, False])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_any_changes_come_to_what_a_plain_dict_says(
    built: Settings, few_chunks: None, is_exact: bool, steps: list[tuple[str, int, int]]
) -> None:
    """Also views of before, which never change. An index that is not exact proposes, and the engine scores."""
    release = open_current(built.store)
    for index in () if is_exact else release.spaces.values():
        index.factory = "proposes"
    encoders = Encoders(choose_device("cpu", 1))
    shelf = Shelf(release)
    ids = [*shelf.model, "new-1", "new-2", "new-3"]
    seen = []
    for step, who, value in [*steps, ("look", 0, 0)]:
        if step != "look":
            getattr(shelf, step)([*ids[:5], *ids[-3:]][who], value)
        else:
            seen.append((shelf.live.view(len(seen), ContentPolicy()), dict(shelf.model)))
    for view, model in seen[-3:]:
        check(view, model, encoders, built, ids)
    there = len(shelf.touched & shelf.model.keys())
    assert seen[-1][0].changes == {"changed": there, "gone": len(shelf.touched) - there}


# ------------------------------------------------------------------------------------------------- against fresh builds


def answers(engine: Engine) -> dict[str, dict[str, float]]:
    """What a few questions find, with scores: words, each item's neighbours, and both filtered.

    By vectors: how rare a word is a release counts when it is made.
    """
    cheap = {"price": {"lte": 20}, "not": {"available": False}}
    found = {}
    for given_filter in ({}, cheap):
        for words in ("blue hat", "something to drink from", "red"):
            query = Query(k=100, text=words, filter=given_filter, spaces=["text"])
            found[f"{words} {given_filter}"] = engine.search(query)
        for item_id in state(engine):
            found[f"like {item_id} {given_filter}"] = engine.similar([item_id], 100, filter_=given_filter)
    return {name: {engine.view.text(one.item_index): one.score for one in each} for name, each in found.items()}


def agree(first: Engine, second: Engine) -> None:
    assert state(first) == state(second)
    ours, theirs = answers(first), answers(second)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name] == pytest.approx(expected, abs=2e-4), name  # the encoder sees a text in other company


def changed_at_random(
    live: ServiceRuntime, model: dict[str, dict[str, Any]], probability: random.Random, steps: int
) -> None:
    """Make changes through the service and in a plain dict of rows."""
    for _ in range(steps):
        item_id = f"i{probability.randrange(18)}"
        kind = probability.choice(["put", "put", "put again", "patch", "delete"])
        if kind == "put":
            free = [number for number in range(56) if title(number) not in {each["title"] for each in model.values()}]
            fresh = row(item_id, probability.choice(free), available=probability.random() < 0.7)
            assert statuses(live.put([fresh])) == ["updated" if item_id in model else "created"]
            model[item_id] = fresh
        elif item_id not in model:
            assert (
                statuses(live.delete([item_id]))
                == statuses(live.patch([{"item_id": item_id, "price": 1}]))
                == ["unknown"]
            )
        elif kind == "put again":
            model[item_id] = {**model[item_id], "price": float(probability.randrange(40)), "domain": "sale"}
            live.put([model[item_id]])
            assert statuses(live.put([model[item_id]])) == ["unchanged"]
        elif kind == "patch":
            either = {"price": float(probability.randrange(40)), "available": probability.random() < 0.5}
            fields = dict(probability.sample([*either.items()], probability.choice([1, 1, 2])))
            live.patch([{"item_id": item_id, **fields}])
            model[item_id] = {**model[item_id], **fields}
        else:
            assert statuses(live.delete([item_id])) == ["deleted"]
            del model[item_id]


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
    assert not folded.view.is_changed
    agree(folded, open_engine(anew))
    live.refresh()
    assert live.engine.view.release.name == report.manifest.release
    changed_at_random(live, model, probability, 20)
    agree(open_engine(small), live.engine)


@pytest.mark.parametrize("meanwhile", ["renamed", "deleted"])
def test_who_is_behind_may_change_what_others_have_changed(small: Settings, meanwhile: str) -> None:
    """A put that seems to change the price alone, as the process has not seen yet what another one did."""
    behind, ahead = opened(small), opened(small)
    score = {one.item_index: one.score for one in behind.engine.search(Query(k=100, text=title(3)))}[3]
    ahead.put([row("i3", 50)]) if meanwhile == "renamed" else ahead.delete(["i3"])
    assert statuses(behind.put([row("i3", 3, price=99.0)])) == ["updated" if meanwhile == "renamed" else "created"]
    ahead.refresh()
    for engine in (behind.engine, ahead.engine, open_engine(small)):
        best = engine.search(Query(k=1, text=title(3), filter={"price": 99}))[0]
        assert engine.view.text(best.item_index) == "i3"
        assert best.score == pytest.approx(score, abs=1e-3)
    assert [space.encoded for space in build(small).spaces] == [0]
    agree(open_engine(small), behind.engine)


def test_nothing_that_comes_while_a_build_runs_is_lost(small: Settings) -> None:
    live = opened(small)
    model = {f"i{number}": row(f"i{number}", number) for number in range(12)}
    live.put([row("n0", 20)])
    live.delete(["i1"])
    live.patch([{"item_id": "i2", "price": 7.5}])
    before = current_name(small.store)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(build, small)
        names = iter(f"n{number}" for number in range(21, 56))
        while not running.done():
            if (name := next(names, None)) is None:
                break
            live.put([row(name, int(name[1:]))])
            live.patch([{"item_id": f"i{int(name[1:]) % 10 + 2}", "price": 1000 + float(name[1:])}])
            live.refresh()
            assert name in state(live.engine)
        report = running.result()
    acknowledged = state(live.engine)
    assert len(acknowledged) > len(model) + 2
    live.refresh()
    assert live.engine.view.release.name == report.manifest.release != before
    assert live.engine.view.is_changed, "nothing came while the build ran"
    assert state(live.engine) == state(open_engine(small)) == acknowledged
    again = build(small)
    for space in (*report.spaces, *again.spaces):
        assert space.encoded == 0
    folded = open_engine(small)
    assert not folded.view.is_changed
    assert state(folded) == acknowledged
    agree(folded, live.engine)


# ------------------------------------------------------------------------------------------------------ feeds and order


def feed_of(configured: Settings, written: float, **changed: Any) -> Path:
    """The first twelve items as they always were, but for i2."""
    rows = [row(f"i{number}", number) for number in range(12)]
    rows[2] |= changed
    return write_feed(configured.store.parent / "feed.jsonl", rows, written)


def test_what_is_in_no_release_yet_wins_over_any_feed(small: Settings) -> None:
    live = opened(small)
    live.delete(["i1"])
    live.patch([{"item_id": "i2", "price": 7.5}])
    live.put([row("n1", 30)])
    build(small, feed_of(small, time.time() + 1000, price=1.0, title="green tin whistle"))
    found = state(open_engine(small))
    assert found.keys() == {f"i{number}" for number in range(12)} - {"i1"} | {"n1"}
    assert (found["i2"].price, found["i2"].title) == (7.5, "green tin whistle")


def test_a_feed_wins_over_what_was_released_before_it_was_written(small: Settings) -> None:
    live = opened(small)
    live.delete(["i1"])
    live.patch([{"item_id": "i2", "price": 7.5}])
    build(small)
    live.refresh()
    live.put([row("n1", 30)])
    build(small, feed_of(small, time.time() + 1000, price=1.0))
    found = state(open_engine(small))
    assert found.keys() == {f"i{number}" for number in range(12)} | {"n1"}, "the feed has i1 again, and n1 is new"
    assert found["i2"].price == 1.0


def test_an_old_feed_undoes_nothing_however_often_it_is_built(tmp_path: Path) -> None:
    """Each night the same file, as the shop exports once a week; and each day something changes live."""
    configured = make_store(tmp_path, keep_releases=2)
    live = opened(configured)
    live.delete(["i1"])
    live.put([row("n1", 30)])
    live.patch([{"item_id": "i2", "price": 7.5}])
    for night in range(3):
        live.patch([{"item_id": "i3", "price": 100.0 + night}])
        acknowledged = state(live.engine)
        assert build(configured, tmp_path / "feed.jsonl").published
        live.refresh()
        assert state(live.engine) == state(open_engine(configured)) == acknowledged, f"night {night}"


# ---------------------------------------------------------------------------------------------------------------- kills


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
    assert not folded.view.is_changed
    agree(folded, live.engine)
    assert not [*releases_folder(small.store).glob(".*"), *(small.store / "catalogue").glob(".new-*")]


# --------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("how", ["a flipped bit", "a record of another version"])
def test_a_damaged_journal_is_named_and_what_comes_before_it_answers(
    small: Settings, how: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No change is taken then, as it could not be read; and none that was is passed over."""
    folder, live = journal_folder(small.store), opened(small)
    live.put([row("before", 20)])
    (segment,) = folder.glob("*.journal")
    start = segment.stat().st_size
    named = segment.name
    if how == "a flipped bit":
        live.delete(["i1"])
        middle = (start + segment.stat().st_size) // 2
        live.put([row("after", 21)])
        data = bytearray(segment.read_bytes())
        data[middle] ^= 4
        segment.write_bytes(data)
    else:
        journal = Journal(folder)
        with journal.writing() as writer:
            list(journal.read())
            put = LiveChange("put", "after", Item("after", "red hat"))
            writer.append([b"\x02\0\0\0{}", put.to_bytes()])
        named = "record 2"
    with served(small) as service:
        before = good(service.search(text=title(20), k=1))["items"][0]
        assert before["item_id"] == "before"
        for _ in range(3):
            for method, path, body in (
                ("PUT", "/v1/items", {"items": [row("new", 22)]}),
                ("PATCH", "/v1/items", {"items": [{"item_id": "i2", "price": 5}]}),
                ("DELETE", "/v1/items/i3", None),
            ):
                error = refused(service.client.request(method, path, json=body), 503)
                assert named in error["message"]
            time.sleep(0.15)  # it looks again and again, and finds the same
        items = {item["item_id"] for item in good(service.search(text="red", k=100))["items"]}
        assert items == {f"i{number}" for number in range(12)} | {"before"}
    for wanting_it_whole in (lambda: build(small), lambda: build(small, small.store.parent / "feed.jsonl")):
        with pytest.raises(Damaged, match=named):
            wanting_it_whole()
    assert any(finding.state == "wrong" and named in finding.detail for finding in examine(small))
    for command in ("doctor", "build"):
        monkeypatch.setattr("sys.argv", ["vetrina", command, "--store", str(small.store), "--json"])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        printed = capfd.readouterr()
        assert named.replace(" ", "") in "".join((printed.out + printed.err).split())  # however wide the terminal
    segment.unlink()  # as the message says, for whoever can do without
    with served(small) as service:
        assert statuses(good(service.client.put("/v1/items", json={"items": [row("new", 22)]}))["items"]) == ["created"]
    build(small)
    assert state(open_engine(small)).keys() == {f"i{number}" for number in range(12)} | {"new"}


# ------------------------------------------------------------------------------------------------- odd moments and rows


def test_changes_are_seen_while_a_release_loads(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking the sums of a large one takes minutes; changes have to be seen within a second all the same."""
    writing, follower = opened(small), ServiceRuntime(small)
    follower.start()
    is_loading, may_load = threading.Event(), threading.Event()

    def slowly(folder: Path) -> Release:
        is_loading.set()
        may_load.wait(30)
        return Release(folder)

    try:
        monkeypatch.setattr("serve.live.runtime.Release", slowly)
        writing.delete(["i1"])
        release = build(small).manifest.release
        assert is_loading.wait(10)
        writing.put([row("new", 20)])
        deadline = time.monotonic() + 4
        while follower.engine.view.item_index("new") is None:
            assert time.monotonic() < deadline, "it was not seen while the release was loading"
            time.sleep(0.02)
        assert follower.engine.view.release.name != release
    finally:
        may_load.set()
        until(lambda: follower.engine.view.release.name == current_name(small.store))
        follower.stop()
    assert state(follower.engine) == state(open_engine(small))


def test_who_loads_a_release_waits_for_who_still_does(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no caller goes back and forth between releases as it meets one worker or another."""
    slow, fast = opened(small), opened(small)
    before = slow.engine.view.release.name
    is_loading, may_load = threading.Event(), threading.Event()

    def load(folder: Path) -> Release:
        if threading.current_thread().name == "slow":
            is_loading.set()
            may_load.wait(30)
        return Release(folder)

    slow.delete(["i1"])
    after = build(small).manifest.release
    monkeypatch.setattr("serve.live.runtime.Release", load)
    threads = [threading.Thread(target=each.refresh, name=name) for each, name in ((slow, "slow"), (fast, "fast"))]
    threads[0].start()
    assert is_loading.wait(10)
    threads[1].start()
    time.sleep(0.5)  # it takes a tenth of that to load
    assert fast.engine.view.release.name == slow.engine.view.release.name == before
    may_load.set()
    for thread in threads:
        thread.join()
    assert fast.engine.view.release.name == slow.engine.view.release.name == after


def test_a_release_that_cannot_be_used_is_not_made_current(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    live = opened(small)
    first = live.engine.view.release.name
    live.delete(["i1"])
    second = build(small).manifest.release
    live.refresh()

    def refuse(*_: Any) -> None:
        raise StoreUnavailable("its encoder is another one", "spaces/text")

    monkeypatch.setattr(Encoders, "warm_up", refuse)
    with pytest.raises(StoreUnavailable, match="another"):
        live.activate(first)
    assert live.engine.view.release.name == current_name(small.store) == second


ODD: list[dict[str, Any]] = [
    {"title": "half \ud800"},
    {"item_id": "half \ud800"},
    {"domain": "half \ud800"},
    {"category": ["half \ud800"]},
    {"image": "half \ud800"},
    {"attributes": {"color": ["half \ud800"]}},
    {"attributes": {"half \ud800": ["red"]}},
    {"title": 10**400},
    {"attributes": {"size": [10**400]}},
    {"price": 10**400, "updated_at": 10**400},
    {"title": float("inf"), "price": float("nan")},
    {"attributes": [[1, 2], "x"]},
    {"item_id": "i1", "domain": "half \ud800"},
    {"item_id": "i1", "price": 10**400},
    {"item_id": "half \ud800", "price": 5},
]


def test_an_odd_row_spoils_neither_the_service_nor_the_row_beside_it(small: Settings) -> None:
    """All of these are JSON as Python reads it. Each is mended or rejected, and what is taken can be folded in."""
    spoilt = {}
    with served(small) as service:
        for number, odd in enumerate(ODD):
            method = (
                "PATCH" if odd.keys() <= {"item_id", "price", "domain"} and "item_id" in odd and len(odd) > 1 else "PUT"
            )
            beside = row(f"beside {number}", 20) if method == "PUT" else {"item_id": "i2", "price": 50 + number}
            rows = [{**row("odd", 21), **odd} if method == "PUT" else odd, beside]
            response = send_rows(service.client, method, rows)
            if response.status_code != 200 or response.json()["items"][1]["status"] not in ("created", "updated"):
                spoilt[ascii(odd)[:60]] = response.status_code
        acknowledged = state(service.app.state.live.engine)
    assert not spoilt
    build(small)
    assert state(open_engine(small)) == acknowledged


def send_rows(client: httpx.Client, method: str, rows: list[dict[str, Any]]) -> httpx.Response:
    """As JSON that httpx would not write: NaN, half surrogate pairs."""
    headers = {"content-type": "application/json"}
    return client.request(method, "/v1/items", content=json.dumps({"items": rows}), headers=headers)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    | st.sampled_from(["i1", "i2", " i3 ", "new", "red hat", "5 EUR", "in stock", "images/nope.jpg", "Shoes > Kids"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["color", "", "é"]), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.sampled_from(
    ["item_id", "title", "description", "category", "brand", "price", "currency", "image", "images"]
)
OTHERS = st.sampled_from(["attributes", "available", "domain", "updated_at", "nope"])
ROWS = st.lists(st.dictionaries(NAMES | OTHERS, VALUES, max_size=6), min_size=1, max_size=3)


def test_no_row_makes_a_bug_and_all_that_is_taken_can_be_built(small: Settings) -> None:
    with served(small) as service:

        @settings(max_examples=60, deadline=None, derandomize=True)
        @given(method=st.sampled_from(["PUT", "PUT", "PATCH"]), rows=ROWS, item_id=st.sampled_from(["i1", "new", None]))
        def send(method: str, rows: list[dict[str, Any]], item_id: str | None) -> None:
            if item_id:
                rows[0] |= {"item_id": item_id}
                rows[0].setdefault("title", "some hat")
            assert len(good(send_rows(service.client, method, rows))["items"]) == len(rows)

        send()
        live = service.app.state.live
        acknowledged = state(live.engine)
        assert len(acknowledged) > 12
        build(small)
        until(lambda: live.engine.view.release.name == current_name(small.store))
        assert state(live.engine) == state(open_engine(small)) == acknowledged


def test_a_patch_reads_ids_and_prices_as_a_put_does(small: Settings) -> None:
    live = opened(small)
    live.put([row(" padded ", 20), {"item_id": 7, "title": "seven"}])
    assert (
        statuses(live.patch([{"item_id": " padded ", "price": 5}, {"item_id": 7, "price": "6,50"}])) == ["updated"] * 2
    )
    [outcome] = live.patch([{"item_id": "i1", "price": "12.50 USD"}])
    item = state(live.engine)["i1"]
    assert outcome.status == "rejected" or (item.price, item.currency) == (12.5, "USD"), "12.50 USD became 12.50 EUR"


def test_images_of_live_items(built: Settings, shop: Path, tmp_path: Path) -> None:
    """What can be read is found by a photo at once; what cannot is told, and the item stays; what is known is kept."""
    store = shutil.copytree(built.store, tmp_path / "store", symlinks=True)
    photos = sorted((shop / "images").iterdir())
    own = Item("own", images=["own.jpg"])
    shutil.copyfile(photos[5], tmp_path / own.images[0])
    (tmp_path / "page.jpg").write_bytes(b"<html>404</html>")
    fields = {"item_id": "own", "title": "a thing of its own", "image": "own.jpg", "price": "free"}
    with served(Settings(store=store, image_root=tmp_path)) as service:

        def put(**fields: Any) -> dict[str, Any]:
            [outcome] = good(service.client.put("/v1/items", json={"items": [fields]}))["items"]
            return dict(outcome)

        def by_photo() -> dict[str, float]:
            asked = {"spaces": "image", "k": "3"}
            response = service.client.post("/v1/search", data=asked, files={"image": photos[5].read_bytes()})
            return {item["item_id"]: item["score"] for item in good(response)["items"]}

        outcome = put(**fields, images=["gone.jpg", "page.jpg", "../outside.jpg"])
        assert outcome["status"] == "created"
        assert "price_unknown" in outcome["warnings"]
        refusals = [warning for warning in outcome["warnings"] if warning != "price_unknown"]
        assert len(refusals) == 3
        assert any("gone.jpg" in warning for warning in refusals)
        assert by_photo()["own"] > 0.99
        (tmp_path / own.images[0]).unlink()
        outcome = put(**fields | {"title": "a thing of another name", "price": 5})
        assert (outcome["status"], outcome["warnings"]) == ("updated", []), "its image was read again"
        assert by_photo()["own"] > 0.99
        assert service.ids(text="a thing of another name", k=1) == ["own"]
        assert put(**fields | {"image": "gone.jpg"})["status"] == "updated"
        assert "own" not in by_photo()
        assert service.ids(text="a thing of its own", k=1) == ["own"]


# ------------------------------------------------------------------------------------------------------ several workers


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


def test_what_is_put_is_there_at_once_here_and_soon_everywhere(workers: Workers) -> None:
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


def test_what_is_deleted_never_shows_again(workers: Workers) -> None:
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


def test_any_worker_tells_what_all_have_counted(workers: Workers) -> None:
    def answers() -> float:
        connection = http.client.HTTPConnection("127.0.0.1", workers.port, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        lines = [line for line in text.splitlines() if line.startswith("vetrina_answers_total{")]
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
    expected = ask(engine, lambda engine: engine.search(Query(k=100, text=title(41))))["items"]
    assert {"i0", "i11"} < {item["item_id"] for item in expected}
    workers.soon_all(lambda: without_times(workers.search(title(41))) == without_times(expected))


def test_live_changes_survive_going_back_and_forth(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    first = current_name(workers.settings.store)
    before = state(open_engine(workers.settings))
    assert workers.ask("GET", "/v1/releases")["changes"]["changed"] > 0
    second = build(workers.settings).manifest.release
    workers.soon_all(lambda: workers.ask("GET", "/readyz")["release"] == second)
    assert workers.ask("GET", "/v1/releases")["changes"] == {"changed": 0, "gone": 0}
    assert workers.put(row("kept", 50), row("i2", 2, price=222)) == ["created", "updated"]
    assert statuses(workers.ask("DELETE", "/v1/items", {"item_ids": ["i1"]})["items"]) == ["deleted"]
    workers.soon_all(lambda: workers.ask("GET", "/v1/releases")["changes"] == {"changed": 2, "gone": 1})
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
