"""Middleware: body limits, gzip bodies, CORS, security headers, logs and metrics, over a real server."""

import asyncio
import gzip
import json
import logging
import socket
import time
import zlib
from collections.abc import Iterator

import pytest
import uvicorn
from helpers.keys import KeyedService, bearer, keyed_service
from helpers.service import good, refused, served, until
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from serve.core.settings import Settings
from serve.http import uvicorn_protocol
from serve.http.logging_config import JsonFormatter, log_config
from serve.http.middleware import gzip_bodies
from serve.http.middleware.gzip_bodies import GzipBodies


@pytest.fixture(scope="module")
def guarded(built: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    with keyed_service(built, tmp_path_factory.mktemp("guarded")) as running:
        yield running


# --------------------------------------------------------------------------------------------------------- body limits


def test_bodies_are_limited_in_size_and_time_while_they_arrive(guarded: KeyedService) -> None:
    service, keys = guarded
    address = (service.client.base_url.host, service.client.base_url.port or 80)
    head = f"POST /v1/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {keys['events']}\r\n"
    head += "content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(address) as wire:
        wire.sendall(head.encode())
        for _ in range(3):
            wire.sendall(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 413")
    with socket.create_connection(address) as wire:
        wire.sendall(head.encode() + b"5\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("path", ["/v1/search", "/v1/recommend", "/v1/events", "/v1/items"])
@pytest.mark.parametrize("opened", ["[", '{"text":', '{"events":[{"a":'])
def test_deeply_nested_json_is_the_callers_mistake(guarded: KeyedService, path: str, opened: str) -> None:
    service, keys = guarded
    headers = bearer(keys["admin"]) | {"content-type": "application/json"}
    method = "PUT" if path == "/v1/items" else "POST"
    response = service.client.request(method, path, content=opened * (19_000 // len(opened)), headers=headers)
    assert response.status_code in (400, 422)


def test_an_incomplete_head_is_dropped_after_its_time(monkeypatch: pytest.MonkeyPatch, built: Settings) -> None:
    config = uvicorn.Config
    monkeypatch.setattr(uvicorn_protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(
        uvicorn, "Config", lambda *given, **named: config(*given, **named, http=uvicorn_protocol.HeadTimeoutProtocol)
    )
    with served(built) as service:
        address = (service.client.base_url.host, service.client.base_url.port or 80)
        for begun in (b"", b"GET /healthz HTTP/1.1\r\nhost: local"):
            with socket.create_connection(address) as wire:
                wire.settimeout(20)
                wire.sendall(begun)
                assert wire.recv(100) == b""
        with socket.create_connection(address) as wire:  # neither the first request nor a later one is cut off
            wire.settimeout(20)
            for _ in range(3):
                wire.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert wire.recv(3000).startswith(b"HTTP/1.1 200")
                time.sleep(0.4)


# --------------------------------------------------------------------------------------------------------- gzip bodies


def decompressed(chunks: list[bytes], limit: int, chunk: int = 1 << 20) -> bytes:
    """What an app receives of a gzip body that arrives in chunks."""
    received, sent = [], iter(enumerate(chunks, 1))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["headers"] == [(b"host", b"localhost")]
        while True:
            message = await receive()
            assert len(message["body"]) <= chunk
            received.append(message["body"])
            if not message["more_body"]:
                return

    async def receive() -> Message:
        number, body = next(sent)
        return {"type": "http.request", "body": body, "more_body": number < len(chunks)}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    headers = [(b"host", b"localhost"), (b"content-encoding", b"GZIP"), (b"content-length", b"1")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip_bodies, "CHUNK_BYTES", chunk)
        asyncio.run(GzipBodies(app, limit)({"type": "http", "method": "POST", "headers": headers}, receive, send))
    return b"".join(received)


@tried(max_examples=200, deadline=None)
@given(data=st.data(), members=st.lists(st.binary(max_size=300), min_size=1, max_size=3), repeat=st.integers(1, 50))
def test_gzip_bodies_arrive_decompressed_however_they_are_cut(
    data: st.DataObject, members: list[bytes], repeat: int
) -> None:
    whole = b"".join(member * repeat for member in members)
    packed = b"".join(gzip.compress(member * repeat) for member in members)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(packed)), max_size=5)))
    chunks = [packed[start:end] for start, end in zip([0, *cuts], [*cuts, len(packed)], strict=True)]
    chunk = data.draw(st.sampled_from([1, 7, 64, 1 << 20]))
    assert decompressed(chunks, len(whole), chunk) == whole
    if whole:
        with pytest.raises(HTTPException) as refusal:
            decompressed(chunks, len(whole) - 1, chunk)
        assert refusal.value.status_code == 413
    end = data.draw(st.integers(0, len(gzip.compress(members[-1] * repeat)) - 1))
    with pytest.raises(HTTPException) as refusal:
        decompressed([gzip.compress(members[-1] * repeat)[:end]], 1 << 20, chunk)
    assert refusal.value.status_code == 400


@pytest.mark.parametrize("piece", [20, 64, 1 << 20])
def test_gzip_members_are_limited(piece: int) -> None:
    member = gzip.compress(b"")
    whole = gzip.compress(b"x") + member * (gzip_bodies.MAX_MEMBERS - 1)
    assert decompressed([whole[start : start + piece] for start in range(0, len(whole), piece)], 10) == b"x"
    whole = member * 200_000
    started = time.monotonic()
    with pytest.raises(HTTPException, match="members") as refusal:
        decompressed([whole[start : start + piece] for start in range(0, len(whole), piece)], 10)
    assert refusal.value.status_code == 400
    assert time.monotonic() - started < 1


def test_events_and_items_are_accepted_as_gzip(guarded: KeyedService) -> None:
    service, keys = guarded
    admin = bearer(keys["admin"]) | {"content-type": "application/json", "content-encoding": "gzip"}
    items = [{"item_id": f"gzip-{number}", "title": "A compressed thing"} for number in range(50)]
    body = gzip.compress(json.dumps({"items": items}).encode())
    assert good(service.client.put("/v1/items", content=body, headers=admin))["items"][0]["status"] == "created"
    events = [{"user_id": "gzip", "item_id": "gzip-0", "type": "click"}]
    body = gzip.compress(json.dumps({"events": events}).encode())
    good(service.client.post("/v1/events", content=body, headers=admin))
    good(
        service.client.request(
            "DELETE", "/v1/items", json={"item_ids": [item["item_id"] for item in items]}, headers=bearer(keys["admin"])
        )
    )


@pytest.mark.parametrize(("method", "path"), [("PUT", "/v1/items"), ("POST", "/v1/events")])
def test_limits_hold_for_the_decompressed_body(guarded: KeyedService, method: str, path: str) -> None:
    service, keys = guarded
    headers = bearer(keys["admin"]) | {"content-type": "application/json", "content-encoding": "gzip"}
    bomb = gzip.compress(b" " * 15_000_000)
    assert len(bomb) < 20_000
    message = refused(service.client.request(method, path, content=bomb, headers=headers), 413)["message"]
    assert "20000 bytes" in message
    for body, encoding, status in (
        (b"{}", "gzip", 400),
        (gzip.compress(b"{}")[:-1], "gzip", 400),
        (zlib.compress(b"{}"), "deflate", 415),
        (b"{}", "br", 415),
        (b"{}", "gzip, gzip", 415),
        (b"{}", "identity", 422),
    ):
        refusal = service.client.request(method, path, content=body, headers=headers | {"content-encoding": encoding})
        error = refused(refusal, status)
        if status == 415:
            assert (encoding in error["message"], "gzip" in error["message"]) == (True, True)
            assert refusal.headers["accept-encoding"] == "gzip"


# ---------------------------------------------------------------------------------------------------- CORS and headers


def test_pages_of_the_configured_origins_may_call(guarded: KeyedService) -> None:
    shop = "https://shop.example"
    with served(guarded[0].app.state.settings.model_copy(update={"cors_origins": [shop]})) as service:
        asked = {"origin": shop, "access-control-request-method": "POST"}
        asked["access-control-request-headers"] = "authorization,content-type"
        before = service.client.options("/v1/search", headers=asked)
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == shop
        refusal = service.client.post("/v1/search", json={}, headers={"origin": shop})
        assert refused(refusal, 401)
        assert refusal.headers["access-control-allow-origin"] == shop  # else the page could not read why
        other = service.client.options("/v1/search", headers=asked | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


def test_every_response_has_security_headers_and_a_request_id(
    guarded: KeyedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, keys = guarded
    query = bearer(keys["query"])
    answers = [
        service.client.get("/"),
        service.client.get("/docs"),
        service.client.get("/healthz"),
        service.client.get("/v1/suggest?q=h", headers=query),
        service.client.get("/v1/suggest?q=h"),
        service.client.get("/v1/items/nothing", headers=query),
    ]
    monkeypatch.setattr(type(service.app.state.live.engine.snapshot), "suggest", lambda *_: 1 / 0)
    answers.append(service.client.get("/v1/suggest?q=h", headers=query))
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 401, 404, 500]
    for answer in answers:
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert len(answer.headers["x-request-id"]) == 32
    assert answers[3].headers["x-request-id"] == answers[3].json()["request_id"]
    assert answers[3].headers["cache-control"] == "no-store"
    assert answers[6].headers["x-request-id"] in answers[6].json()["error"]["message"]


# ---------------------------------------------------------------------------------------------------------------- logs


def test_logs_and_metrics_have_ids_and_times_and_neither_keys_nor_users(
    guarded: KeyedService, caplog: pytest.LogCaptureFixture
) -> None:
    service, keys = guarded
    caplog.set_level(logging.INFO)
    answer = good(service.client.post("/v1/recommend", json={"user_id": "anna.smith"}, headers=bearer(keys["query"])))
    good(service.client.get("/v1/users/anna.smith", headers=bearer(keys["admin"])))
    refused(service.client.get("/v1/users/anna.smith", headers=bearer("vt_guessed")), 401)
    until(lambda: sum(record.message == "request" for record in caplog.records) >= 3)
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]  # that is the caller's log
    lines = [JsonFormatter().format(record) for record in ours]
    told = [json.loads(line) for line in lines]
    mine = next(each for each in told if each.get("request_id") == answer["request_id"])
    assert (mine["method"], mine["route"], mine["status"], mine["key"]) == ("POST", "/v1/recommend", 200, "query")
    assert mine["took_ms"] > 0
    metrics = service.client.get("/metrics", headers=bearer(keys["events"])).text
    assert 'vetrina_request_seconds_count{operation="GET /v1/users/{user_id}",status="200"}' in metrics
    for text in (*lines, metrics):
        assert "anna" not in text
        assert "vt_" not in text


def test_no_logger_of_uvicorn_logs_paths() -> None:
    """Uvicorn's own lines of requests have ids of shoppers in them."""
    configured = log_config("json")["loggers"]["uvicorn.access"]
    assert (configured["handlers"], configured["propagate"]) == ([], False)
