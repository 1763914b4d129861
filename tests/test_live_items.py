"""Live changes of items: a damaged journal, releases that load meanwhile, odd rows, images."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers.live import (
    make_store,
    opened,
    row,
    state,
    statuses,
    title,
)
from helpers.service import good, refused, served, until
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.catalogue import Item
from index.errors import IndexDamaged
from index.journal import Journal
from serve import cli
from serve.core.errors import StoreUnavailable
from serve.core.settings import Settings
from serve.engine.query_encoders import Encoders
from serve.jobs.build import build
from serve.jobs.doctor import examine
from serve.live.change_record import LiveChange, journal_folder
from serve.live.journal_watcher import JournalWatcher
from serve.live.replica import open_engine
from serve.live.runtime import ServiceRuntime
from serve.release import ab_test
from serve.release.release import Release
from serve.release.repository import current_name


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    return make_store(tmp_path)


@pytest.mark.parametrize("how", ["a flipped bit", "a record of another version"])
def test_a_damaged_journal_is_named_and_what_comes_before_it_answers(
    small: Settings, how: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No change is taken then, as it could not be read; and none that was is passed over."""
    folder, live = journal_folder(small.store), opened(small)
    live.items.put([row("before", 20)])
    (segment,) = folder.glob("*.journal")
    start = segment.stat().st_size
    named = segment.name
    if how == "a flipped bit":
        live.items.delete(["i1"])
        middle = (start + segment.stat().st_size) // 2
        live.items.put([row("after", 21)])
        data = bytearray(segment.read_bytes())
        data[middle] ^= 4
        segment.write_bytes(data)
    else:
        journal = Journal(folder)
        with journal.lock() as writer:
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
        with pytest.raises(IndexDamaged, match=named):
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
        monkeypatch.setattr("serve.live.release_watcher.Release", slowly)
        writing.items.delete(["i1"])
        release = build(small).manifest.release
        assert is_loading.wait(10)
        writing.items.put([row("new", 20)])
        deadline = time.monotonic() + 4
        while follower.engine.snapshot.item_index("new") is None:
            assert time.monotonic() < deadline, "it was not seen while the release was loading"
            time.sleep(0.02)
        assert follower.engine.snapshot.release.name != release
    finally:
        may_load.set()
        until(lambda: follower.engine.snapshot.release.name == current_name(small.store))
        follower.stop()
    assert state(follower.engine) == state(open_engine(small))


def test_a_comparison_does_not_hide_changes(small: Settings) -> None:
    """It makes the served replicas catch up, and the next poll has to serve their snapshots."""
    treatment = current_name(small.store)
    opened(small).items.delete(["i1"])  # without a change a build makes no release
    current = build(small).manifest.release
    assert treatment is not None
    assert treatment != current
    ab_test.start(small.store, treatment, 0.5)
    reading, writing = opened(small), opened(small)
    writing.items.put([row("new", 20)])
    for name in (treatment, current):
        assert reading.engine_at(name).snapshot.item_index("new") is not None
    assert reading.engine.snapshot.item_index("new") is None
    reading.journal_watcher.poll()
    assert reading.releases.treatment is not None
    for served_release in (reading.releases.active(), reading.releases.treatment.served):
        assert served_release.engine.snapshot.item_index("new") is not None
    engine = reading.engine
    reading.journal_watcher.poll()
    assert reading.engine is engine


def test_an_unexpected_error_does_not_end_a_watcher(
    small: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors = iter([RuntimeError("unforeseen")] * 3)
    poll = JournalWatcher.poll

    def fail_first(watcher: JournalWatcher) -> None:
        if threading.current_thread().name == "journal-watcher":
            for error in errors:
                raise error
        poll(watcher)

    monkeypatch.setattr(JournalWatcher, "poll", fail_first)
    follower = ServiceRuntime(small)
    follower.start()
    try:
        opened(small).items.put([row("new", 20)])
        until(lambda: follower.engine.snapshot.item_index("new") is not None)
    finally:
        follower.stop()
    logged = [each for each in caplog.records if each.exc_info and "unforeseen" in str(each.exc_info[1])]
    assert [each.getMessage() for each in logged] == ["journal-watcher failed, it tries again"]


def test_processes_that_load_a_release_wait_for_each_other(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no caller goes back and forth between releases as it meets one worker or another."""
    slow, fast = opened(small), opened(small)
    before = slow.engine.snapshot.release.name
    is_loading, may_load = threading.Event(), threading.Event()

    def load(folder: Path) -> Release:
        if threading.current_thread().name == "slow":
            is_loading.set()
            may_load.wait(30)
        return Release(folder)

    slow.items.delete(["i1"])
    after = build(small).manifest.release
    monkeypatch.setattr("serve.live.release_watcher.Release", load)
    threads = [threading.Thread(target=each.refresh, name=name) for each, name in ((slow, "slow"), (fast, "fast"))]
    threads[0].start()
    assert is_loading.wait(10)
    threads[1].start()
    time.sleep(0.5)  # it takes a tenth of that to load
    assert fast.engine.snapshot.release.name == slow.engine.snapshot.release.name == before
    may_load.set()
    for thread in threads:
        thread.join()
    assert fast.engine.snapshot.release.name == slow.engine.snapshot.release.name == after


def test_a_release_that_cannot_be_used_is_not_made_current(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    live = opened(small)
    first = live.engine.snapshot.release.name
    live.items.delete(["i1"])
    second = build(small).manifest.release
    live.refresh()

    def refuse(*_: Any) -> None:
        raise StoreUnavailable("its encoder is another one", "spaces/text")

    monkeypatch.setattr(Encoders, "warm_up", refuse)
    with pytest.raises(StoreUnavailable, match="another"):
        live.activate(first)
    assert live.engine.snapshot.release.name == current_name(small.store) == second


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
        build(small, force=True)  # although photos of these rows cannot be read
        until(lambda: live.engine.snapshot.release.name == current_name(small.store))
        assert state(live.engine) == state(open_engine(small)) == acknowledged


def test_a_patch_reads_ids_and_prices_as_a_put_does(small: Settings) -> None:
    live = opened(small)
    live.items.put([row(" padded ", 20), {"item_id": 7, "title": "seven"}])
    assert (
        statuses(live.items.patch([{"item_id": " padded ", "price": 5}, {"item_id": 7, "price": "6,50"}]))
        == ["updated"] * 2
    )
    [outcome] = live.items.patch([{"item_id": "i1", "price": "12.50 USD"}])
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
