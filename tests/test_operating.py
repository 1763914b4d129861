"""Operation of the service: load shedding, partial responses, recall monitor, traces, shutdown, operator requests."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from helpers.service import good, refused, served, until
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
from PIL import Image

from index.exact_index import ExactIndex
from index.item_mask import ItemMask
from index.space import Space
from serve.core import request_context
from serve.core.metrics import IMPRESSIONS_DROPPED, PROBE_FOUND, PROBED
from serve.core.settings import Settings
from serve.core.settings_sections import Timeouts
from serve.engine.recall_monitor import RecallMonitor, count_correct
from serve.http.middleware import concurrency_limiter
from serve.http.middleware.concurrency_limiter import MIN_LIMIT, WINDOW, ConcurrencyLimiter
from serve.jobs.build import build
from serve.release.repository import open_current
from serve.storage.event_log import EventLog
from serve.storage.event_statistics import EventStatistics
from serve.storage.impression_log import ImpressionLog
from serve.storage.store_database import FILE

# ------------------------------------------------------------------------------------------------------------- shedding


def driven(limiter: ConcurrencyLimiter, service_time: float, offered: int, rounds: int) -> list[float]:
    """The latencies of the admitted ones of `offered` requests at once, on a core that handles them in turn."""
    took = []
    for _ in range(rounds):
        admitted = sum(limiter.admit() for _ in range(offered))
        for _ in range(admitted):
            limiter.finish(admitted * service_time)
            took.append(admitted * service_time)
    return took


@pytest.mark.parametrize("service_time", [0.001, 0.004, 0.011])
def test_admission_settles_where_responses_are_just_in_time(service_time: float) -> None:
    limiter = ConcurrencyLimiter(0.1)
    took = driven(limiter, service_time, offered=1000, rounds=600)
    settled = took[len(took) // 2 :]
    assert np.quantile(settled, 0.99) <= 0.1 * 1.1 + service_time
    assert np.mean(settled) >= 0.75 * min(
        0.1, service_time * concurrency_limiter.MAX_LIMIT
    )  # and no more than necessary is refused
    assert limiter.in_flight == 0


def test_few_requests_are_always_admitted_however_slow() -> None:
    limiter = ConcurrencyLimiter(0.1)
    driven(limiter, 5.0, offered=MIN_LIMIT, rounds=20 * WINDOW)
    assert [limiter.admit() for _ in range(MIN_LIMIT + 1)] == [True] * MIN_LIMIT + [False]


def test_a_late_event_loop_sheds_load() -> None:
    async def blocked() -> tuple[bool, bool]:
        limiter = ConcurrencyLimiter(0.05)
        limiter.start()
        await asyncio.sleep(0.05)
        for _ in range(MIN_LIMIT):
            assert limiter.admit()
        before = limiter.admit()
        await asyncio.sleep(0)
        time.sleep(0.3)  # blocks the loop
        await asyncio.sleep(0.02)
        after = limiter.admit()
        limiter.stop()
        return before, after

    assert asyncio.run(blocked()) == (True, False)


def test_requests_beyond_the_limit_are_refused_at_once_with_retry_after(
    copied: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = threading.Event()
    with served(copied) as service:
        engine = service.app.state.live.engine
        recommend = engine.recommend
        monkeypatch.setattr(engine, "recommend", lambda *of, **named: (hold.wait(30), recommend(*of, **named))[1])
        with ThreadPoolExecutor(60) as pool:
            asked = [pool.submit(service.client.post, "/v1/recommend", json={"k": 3}) for _ in range(60)]
            until(lambda: sum(each.done() for each in asked) >= 60 - concurrency_limiter.INITIAL_LIMIT)
            assert service.client.get("/healthz").status_code == 200  # always admitted
            assert service.client.get("/readyz").status_code == 200
            metrics = service.client.get("/metrics").text
            hold.set()
            answers = [each.result() for each in asked]
        shed = [answer for answer in answers if answer.status_code == 503]
        assert len(shed) == 60 - concurrency_limiter.INITIAL_LIMIT
        assert {refused(answer, 503)["code"] for answer in shed} == {"busy"}
        assert all(answer.headers["retry-after"] == "1" for answer in shed)
        assert all(good(answer)["items"] for answer in answers if answer.status_code != 503)
        assert f"vetrina_in_flight {float(concurrency_limiter.INITIAL_LIMIT)}" in metrics
        assert "vetrina_shed_total" in metrics


# ---------------------------------------------------------------------------------------------------- partial responses


def test_a_late_response_is_partial(copied: Settings) -> None:
    body = {"user_id": "u00001", "k": 5}
    with served(copied) as service:
        whole = good(service.client.post("/v1/recommend", json=body))
        assert (whole["ranked_by"], whole.get("partial", [])) == ("scorer", [])
    with served(copied.model_copy(update={"timeouts": Timeouts(response=1e-6)})) as service:
        late = good(service.client.post("/v1/recommend", json=body))
        assert (late["ranked_by"], late["partial"]) == ("retrievers", ["scorer"])
        assert len(late["items"]) == 5
        assert 'vetrina_partial_total{missing="scorer"}' in service.client.get("/metrics").text


def test_an_unresponsive_database_costs_the_history_and_not_the_response(copied: Settings, postgres: str) -> None:
    (copied.store / FILE).unlink()  # it takes another database
    configured = copied.model_copy(update={"events_url": postgres, "timeouts": Timeouts(events=0.2)})
    store = EventLog(postgres)
    with served(configured) as service:
        item = good(service.search(text="shoe"))["items"][0]["item_id"]
        acts = [{"user_id": name, "item_id": item, "type": "purchase"} for name in ("ann", "bob")]
        good(service.client.post("/v1/events", json={"events": acts}))
        wishes = {"blocked_categories": ["Mugs"]}
        good(service.client.put("/v1/users/ann/preferences", json=wishes))
        before = good(service.client.post("/v1/recommend", json={"user_id": "ann", "k": 72}))
        assert not [one for one in before["items"] if one["category"].startswith("Mugs")]
        with store.database.transaction() as connection:
            connection.exec_driver_sql("LOCK TABLE events, preferences IN ACCESS EXCLUSIVE MODE")
            during = good(service.client.post("/v1/recommend", json={"user_id": "ann", "k": 72}))
            stranger = good(service.client.post("/v1/recommend", json={"user_id": "bob", "k": 5}))
            anybody = good(service.client.post("/v1/recommend", json={"history": [{"item_id": item}], "k": 5}))
        assert during["partial"] == stranger["partial"] == ["events"]
        assert not [one for one in during["items"] if one["category"].startswith("Mugs")]  # by preferences read before
        assert "partial" not in anybody
        after = good(service.client.post("/v1/recommend", json={"user_id": "bob", "k": 5}))
        assert "partial" not in after
    store.close()


def test_an_unresponsive_space_is_omitted(copied: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from index.errors import IndexMissing

    with served(copied) as service:
        snapshot = service.app.state.live.engine.snapshot

        def deleted(*_: Any, **__: Any) -> Any:
            raise IndexMissing("the engine is gone", "image")

        monkeypatch.setattr(snapshot.spaces["image"], "score_all_items", deleted)
        monkeypatch.setattr(snapshot.spaces["image"], "search", deleted)
        monkeypatch.setattr(snapshot.spaces["image"], "factory", "HNSW")
        found = good(service.search(text="shoe"))
        assert found["partial"] == ["image"]
        assert set(found["items"][0]["retriever_scores"]) == {"text", "keywords"}
        assert refused(service.search(text="shoe", spaces=["image"]), 503)["message"] == "the engine is gone"


# ------------------------------------------------------------------------------------------------------- recall monitor


@tried(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), few=st.booleans())
def test_the_recall_monitor_counts_true_nearest_neighbours(seed: int, few: bool) -> None:
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (40, 4)).astype(np.float32)  # with ties
    vectors[~vectors.any(1)] = 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = ExactIndex(Space("s", 4, "f"), vectors, np.arange(40, dtype=np.int32), np.zeros(40, np.int32), 40)
    mask = random.random(40) < 0.6 if few else np.ones(40, np.bool_)
    allowed = ItemMask(mask) if few else None
    query = random.normal(size=4).astype(np.float32)
    found = random.permutation(np.flatnonzero(mask))[:10]
    scores = vectors @ query
    least = np.sort(scores[mask])[-len(found)]
    expected = int((scores[found] >= least - 1e-6).sum())
    ties = int((np.abs(scores[found] - least) < 1e-5).sum())
    assert abs(count_correct(index, query, found, allowed) - expected) <= ties


def test_live_queries_are_sampled_in_the_background() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = ExactIndex(Space("probed", 8, "f"), vectors, np.arange(50, dtype=np.int32), np.zeros(50, np.int32), 50)
    truth = index.search(vectors[:1], 10).items[0]
    missed = np.concatenate([truth[:7], np.setdiff1d(np.arange(50), truth)[:3]])
    probe = RecallMonitor(seconds=1e-9)
    probe.start()
    for found in (truth, missed, truth[:3]):  # fewer than ten are not sampled
        probe.offer("probed", index, vectors[0], found, None)
    probe.stop()
    assert PROBED.labels("probed")._value.get() == 20
    assert PROBE_FOUND.labels("probed")._value.get() == 17


# --------------------------------------------------------------------------------------------------------------- traces


def test_requests_and_their_stages_are_spans_without_user_ids(trained: Settings) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    request_context.trace_with(provider.get_tracer("test"))
    try:
        with served(trained) as service:
            exporter.clear()
            trace = "4bf92f3577b34da6a3ce929d0e0e4736"
            headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
            body = {"user_id": "u00001"}
            answer = good(service.client.post("/v1/recommend", json=body, headers=headers))
            good(service.client.get("/v1/users/u00001"))
            until(lambda: len([span for span in exporter.get_finished_spans() if span.parent is None]) >= 1)
    finally:
        request_context.trace_with(None)
    spans = exporter.get_finished_spans()
    request = next(span for span in spans if span.name == "POST /v1/recommend")
    assert request.context.trace_id == int(trace, 16)
    assert request.attributes["vetrina.request_id"] == answer["request_id"]  # type: ignore[index]
    assert request.attributes["http.response.status_code"] == 200  # type: ignore[index]
    inside = {span.name for span in spans if span.context.trace_id == int(trace, 16)}
    assert {"events", "candidates", "rank", "response"} < inside
    assert "u00001" not in "".join(span.to_json() for span in spans)


# ------------------------------------------------------------------------------------------------------------- shutdown


def test_a_terminated_service_completes_its_requests(trained: Settings) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from serve.cli import main; main()", "serve", "--port", str(port)]
    environment = os.environ | {"VETRINA_STORE": str(trained.store), "VETRINA_LOG_FORMAT": "json"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=trained.store)
    address = ("127.0.0.1", port)
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        body = b'{"text": "shoe", "k": 3}'
        head = f"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
        head += "content-type: application/json\r\n\r\n"
        with socket.create_connection(address) as wire:
            wire.settimeout(60)
            wire.sendall(head.encode() + body[:5])
            time.sleep(0.3)  # it is being read
            process.send_signal(signal.SIGTERM)
            until(lambda: not answers(f"http://127.0.0.1:{port}/healthz"))  # no new connection is accepted
            wire.sendall(body[5:])
            assert wire.recv(100).startswith(b"HTTP/1.1 200")
        assert process.wait(60) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        _, errors = process.communicate()
    assert all(line.startswith("{") for line in errors.splitlines() if line.strip()), errors
    assert '"release ' in errors


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


# ---------------------------------------------------------------------------------------------------- operator requests


def test_two_releases_are_compared_without_impressions(copied: Settings) -> None:
    with served(copied) as service:
        first = good(service.client.get("/v1/releases"))["release"]
        good(service.client.put("/v1/items", json={"items": [{"item_id": "NEW", "title": "Unheard-of flurb"}]}))
        second = build(copied, force=True).manifest.release
        until(lambda: good(service.client.get("/v1/releases"))["release"] == second)
        for question in (
            {"search": {"text": "red shoe", "k": 3}},
            {"recommend": {"user_id": "u00001", "k": 3}},
            {"similar": {"item_ids": ["NEW"], "k": 3}},
        ):
            body = {"releases": [first, second], **question}
            found = good(service.client.post("/v1/compare", json=body))["answers"]
            assert [answer["release"] for answer in found] == [first, second]
            assert all(len(answer["items"]) == 3 for answer in found)
        found = good(
            service.client.post("/v1/compare", json={"releases": [first, second], "search": {"text": "flurb"}})
        )
        assert "NEW" in {item["item_id"] for item in found["answers"][1]["items"]}
        for wrong in ({"search": {"text": "a"}, "recommend": {}}, {}):
            refused(service.client.post("/v1/compare", json={"releases": [first, second], **wrong}))
        unknown = service.client.post("/v1/compare", json={"releases": [first, "no"], "search": {"text": "a"}})
        assert refused(unknown, 404)["field"] == "release"
        manifest = good(service.client.get(f"/v1/releases/{first}"))["manifest"]
        assert manifest["release"] == first
        assert manifest["spaces"]["image"]["recall10"] > 0.9
        assert refused(service.client.get("/v1/releases/..%2F..%2Fetc"), 404)


def test_catalogue_report_and_activity(tmp_path: Path) -> None:
    feed = tmp_path / "feed.csv"
    feed.write_text("item_id,title\n" + "".join(f"{n},thing {n}\n" for n in range(5)) + ",no id\n6,\n0,again\n")
    configured = Settings(store=tmp_path / "store")
    build(configured, feed)
    with served(configured) as service:
        dropped = good(service.client.get("/v1/activity"))["answers_dropped"]  # since the start of this process
        told = good(service.client.get("/v1/catalogue"))
        assert (told["report"]["read"], told["report"]["kept"], told["total"]) == (8, 5, 3)
        assert {reject["code"] for reject in told["rejects"]} == {"missing_id", "nothing_to_embed", "duplicate_id"}
        page = good(service.client.get("/v1/catalogue?offset=1&limit=1"))
        assert page["rejects"] == told["rejects"][1:2]
        events = [{"user_id": f"u{n % 2}", "item_id": str(n), "type": "click"} for n in range(4)]
        good(service.client.post("/v1/events", json={"events": events}))
        good(service.client.post("/v1/events", json={"events": [{"user_id": "u0", "item_id": "1", "type": "cart"}]}))
        users = good(service.client.get("/v1/users?k=5"))["users"]
        assert [(user["user_id"], user["events"]) for user in users] == [("u0", 3), ("u1", 2)]
        activity = good(service.client.get("/v1/activity"))
        rates = [(rate["type"], rate["count"]) for rate in activity["events"]]
        assert sorted(rates) == [("cart", 1), ("click", 4)]
        assert activity["experiment"] is None
        assert activity["answers_dropped"] == dropped
        IMPRESSIONS_DROPPED.inc()
        assert good(service.client.get("/v1/activity"))["answers_dropped"] == dropped + 1


def test_event_rates_are_by_hour_in_either_database(url: str) -> None:
    from embed.behaviour import Event

    store = EventLog(url)
    hour = int(time.time() // 3600) - 5
    times = [hour * 3600, hour * 3600 + 3599.9, (hour + 1) * 3600, (hour - 100) * 3600]
    store.add([Event(f"e{n}", "u", "i", "click", at) for n, at in enumerate(times)])
    assert EventStatistics(store.database).hourly_counts(hour * 3600) == [(hour, "click", 2), (hour + 1, "click", 1)]
    assert [(user, count) for user, count, _ in EventStatistics(store.database).active_users(10)] == [("u", 4)]
    store.close()


def test_item_photos_are_thumbnails_from_allowed_sources_only(copied: Settings, tmp_path: Path) -> None:
    first = open_current(copied.store).ids.item_id(0)
    (tmp_path / "secret.png").write_bytes(b"")
    with served(copied) as service:
        shown = service.client.get(f"/v1/items/{first}/image?size=64")
        assert shown.status_code == 200
        assert shown.headers["content-type"] == "image/jpeg"
        image = Image.open(BytesIO(shown.content))
        assert max(image.size) <= 64
        assert image.mode == "RGB"
        assert refused(service.client.get(f"/v1/items/{first}/image?size=4096"))["field"] == "size"
        assert refused(service.client.get(f"/v1/items/{first}/image?number=9"), 404)["code"] == "no_image"
        sources = ["../secret.png", str(tmp_path / "secret.png"), "http://127.0.0.1:1/a.png", "file:///etc/passwd"]
        items = [{"item_id": f"s{n}", "title": "t", "image": source} for n, source in enumerate(sources)]
        good(service.client.put("/v1/items", json={"items": items}))
        for n in range(len(sources)):
            assert refused(service.client.get(f"/v1/items/s{n}/image"), 404)["field"] == "image"


def test_ready_is_a_service_with_a_release(tmp_path: Path) -> None:
    with served(Settings(store=tmp_path / "store")) as service:
        assert service.client.get("/healthz").status_code == 200
        assert "vetrina build" in refused(service.client.get("/readyz"), 503)["message"]
        feed = tmp_path / "feed.csv"
        feed.write_text("item_id,title\na,A\nb,B\n")
        build(Settings(store=tmp_path / "store"), feed)
        until(lambda: service.client.get("/readyz").status_code == 200)


def test_requests_with_log_false_leave_no_impression(copied: Settings) -> None:
    with served(copied) as service:
        store = ImpressionLog(service.app.state.live.users.events.database)

        def logged() -> int:
            service.app.state.live.users.impressions.wait_for_all()
            return sum(len(lot) for lot in store.batches())

        before = logged()
        good(service.client.post("/v1/recommend", json={"user_id": "u00001", "log": False}))
        assert logged() == before
        good(service.client.post("/v1/recommend", json={"user_id": "u00001"}))
        assert logged() == before + 1
