"""Keys, scopes, rates, limits while reading, origins, headers, logs and the audit log, over a real server."""

import json
import logging
import multiprocessing
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from helpers.command import Run
from helpers.service import Service, good, refused, served, until
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from serve.core.errors import BadRequest, NotFound, StoreUnavailable
from serve.core.settings import Settings
from serve.http import uvicorn_protocol
from serve.http.app import create_app
from serve.http.logging_config import JsonLines, log_config
from serve.http.middleware.gateway import is_loopback
from serve.http.permissions import ANY, scope_of
from serve.security import audit_log
from serve.security.api_keys import ApiKeys, create_key, list_keys, revoke_key
from serve.security.rate_limiter import RateLimiter, most_at_once

SCOPES_OF = {
    "GET /healthz": None,
    "GET /readyz": None,
    "GET /metrics": ANY,
    "GET /v1/me": ANY,
    "POST /v1/search": "query",
    "GET /v1/suggest": "query",
    "GET /v1/items/{item_id}": "query",
    "GET /v1/items/{item_id}/image": "query",
    "GET /v1/items/{item_id}/similar": "query",
    "GET /v1/items/{item_id}/related": "query",
    "POST /v1/items/{item_id}/copy": "query",
    "POST /v1/similar": "query",
    "POST /v1/recommend": "query",
    "POST /v1/rank": "query",
    "POST /v1/candidates": "query",
    "POST /v1/events": "events",
    "PUT /v1/users/{user_id}/preferences": "events",
    "PUT /v1/items": "catalogue",
    "PATCH /v1/items": "catalogue",
    "DELETE /v1/items": "catalogue",
    "DELETE /v1/items/{item_id}": "catalogue",
    "GET /v1/users": "admin",
    "GET /v1/users/{user_id}": "admin",
    "DELETE /v1/users/{user_id}": "admin",
    "POST /v1/audience": "admin",
    "GET /v1/releases": "admin",
    "GET /v1/releases/{release}": "admin",
    "POST /v1/releases/{release}/activate": "admin",
    "POST /v1/compare": "admin",
    "GET /v1/catalogue": "admin",
    "GET /v1/activity": "admin",
    "GET /v1/review": "admin",
}


@pytest.fixture(scope="module")
def guarded(trained: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, dict[str, str]]]:
    """A server with keys, and the key of each scope; `slow` may call twice a second."""
    store = tmp_path_factory.mktemp("guarded") / "store"
    shutil.copytree(trained.store, store, symlinks=True)
    keys = {scope: create_key(store, scope, [scope]) for scope in ("query", "events", "catalogue", "admin")}  # type: ignore[list-item]
    keys["slow"] = create_key(store, "slow", ["query"], rate=2)
    timeouts = {"body": 0.5}
    changed = {"store": store, "max_request_bytes": 20_000, "access_log": True}
    configured = Settings.model_validate(trained.model_dump() | changed | {"timeouts": timeouts})
    with served(configured) as service:
        yield service, keys


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# ---------------------------------------------------------------------------------------------------------------- keys


def test_keys_are_hashed_at_rest_found_until_revoked_and_seen_by_who_runs_already(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path)
    assert not keys.any()
    secret = create_key(tmp_path, "web", ["query", "events"], rate=5)
    kept = (tmp_path / "keys.json").read_text()
    assert secret not in kept
    assert secret[3:] not in kept
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    until(keys.any)
    found = keys.find(secret)
    assert found is not None
    assert (found.name, found.rate) == ("web", 5)
    assert [found.may(scope) for scope in ("query", "events", "catalogue", "admin")] == [True, True, False, False]
    assert keys.find(secret[:-1]) is keys.find("") is keys.find("vt_\udc80") is None
    other = create_key(tmp_path, "jobs", ["admin"])
    assert {key.number for key in list_keys(tmp_path)} == {0, 1}
    revoke_key(tmp_path, "web")
    until(lambda: keys.find(secret) is None)
    assert keys.find(other)
    with pytest.raises(NotFound, match="jobs"):
        revoke_key(tmp_path, "web")


@pytest.mark.parametrize(("name", "rate"), [("", None), ("x" * 101, None), ("a\nb", None), ("ok", -1.0)])
def test_what_is_no_key_is_refused_by_its_field(tmp_path: Path, name: str, rate: float | None) -> None:
    with pytest.raises(BadRequest) as refusal:
        create_key(tmp_path, name, ["query"], rate)
    assert refusal.value.field == ("rate" if rate else "name")
    assert not list_keys(tmp_path)


def test_a_damaged_key_file_lets_nobody_in(copied: Settings) -> None:
    create_key(copied.store, "web", ["query"])
    with served(copied) as service:
        refused(service.client.get("/v1/suggest?q=a"), 401)
        (copied.store / "keys.json").write_text('{"keys": [')
        until(lambda: service.client.get("/v1/suggest?q=a").status_code == 503)
        assert "keys.json" in refused(service.client.get("/v1/suggest?q=a"), 503)["message"]
    with pytest.raises(StoreUnavailable):
        list_keys(copied.store)


def test_the_command_makes_lists_and_revokes_keys_and_all_of_it_is_in_the_audit_log(
    run: Run,
    tmp_path: Path,
) -> None:
    store = tmp_path / "store"
    assert run("keys", "create", "web", "--store", store)[0] == 2
    store.mkdir()
    code, printed, _ = run("keys", "create", "web", "--scope", "query", "--scope", "events", "--store", store)
    assert code == 0
    assert ApiKeys(store).find(printed.split()[0])
    code, printed, _ = run("keys", "create", "ops", "--scope", "admin", "--rate", "50", "--store", store, "--json")
    made = json.loads(printed)
    assert made["scopes"] == ["admin"]
    assert run("keys", "create", "ops", "--store", store)[0] == 2
    code, _, errors = run("keys", "create", "x", "--scope", "root", "--store", store)
    assert code == 2
    assert "query, events, catalogue, admin" in errors
    code, printed, _ = run("keys", "list", "--store", store, "--json")
    listed = json.loads(printed)
    assert [(key["name"], key["scopes"], key["rate"]) for key in listed] == [
        ("web", ["query", "events"], None),
        ("ops", ["admin"], 50.0),
    ]
    assert "sha256" not in printed
    assert run("keys", "revoke", "web", "--store", store)[0] == 0
    code, printed, _ = run("audit", "--store", store, "--json")
    acts = json.loads(printed)
    assert [(act["act"], act["key"]) for act in acts] == [
        ("create key", "web"),
        ("create key", "ops"),
        ("revoke key", "web"),
    ]
    assert all(act["by"].startswith("command line") for act in acts)
    assert made["key"] not in (store / "audit.jsonl").read_text()


def test_without_a_key_only_this_machine_is_served(run: Run, built: Settings) -> None:
    code, _, errors = run("serve", "--host", "0.0.0.0", "--store", built.store)
    assert code == 2
    assert "vetrina keys create" in " ".join(errors.split())
    known = ["127.0.0.1", "127.8.8.8", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "shop.example", ""]
    assert [host for host in known if is_loopback(host)] == known[:4]


# -------------------------------------------------------------------------------------------------------------- scopes


def test_every_operation_has_the_scope_that_is_written_here(trained: Settings) -> None:
    calls = [
        (method.upper(), path)
        for path, operations in create_app(trained).openapi()["paths"].items()
        for method in operations
    ]
    assert {f"{method} {path}": scope_of(method, path) for method, path in calls} == SCOPES_OF
    assert {scope_of("GET", path) for path in ("/", "/docs", "/docs/start.js", "/console/app.js")} == {None}
    assert scope_of("GET", "/anything") == "admin"
    assert scope_of("POST", "/v1/new") == "query"


def test_the_document_says_who_may_call_what(guarded: tuple[Service, dict[str, str]]) -> None:
    document = guarded[0].client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = scope_of(method.upper(), path)
            assert ("security" in operation) == (scope is not None)
            assert f"`{scope}`" in operation["description"] or scope in (None, ANY)


@pytest.mark.parametrize("scope", ["query", "events", "catalogue", "admin"])
def test_a_key_opens_its_scope_and_no_other(guarded: tuple[Service, dict[str, str]], scope: str) -> None:
    service, keys = guarded
    calls: dict[str, tuple[str, str, Any]] = {
        "query": ("POST", "/v1/search", {"text": "shoe"}),
        "events": ("POST", "/v1/events", {"events": [{"user_id": "x", "item_id": "y", "type": "nothing"}]}),
        "catalogue": ("DELETE", "/v1/items", {"item_ids": ["not there"]}),
        "admin": ("GET", "/v1/releases", None),
    }
    method, path, body = calls[scope]
    for name in calls:
        response = service.client.request(method, path, json=body, headers=bearer(keys[name]))
        if name in (scope, "admin"):
            good(response)
        else:
            assert keys[name] not in refused(response, 403)["message"]
    for headers in ({}, bearer("vt_wrong"), {"authorization": keys[scope]}, {"authorization": f"Basic {keys[scope]}"}):
        response = service.client.request(method, path, json=body, headers=headers)
        assert refused(response, 401)["field"] == "authorization"
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert service.client.get("/v1/me", headers=bearer(keys[scope])).json()["scopes"] == [scope]


def test_who_may_not_call_is_refused_before_a_body_is_read(guarded: tuple[Service, dict[str, str]]) -> None:
    with socket.create_connection((guarded[0].client.base_url.host, guarded[0].client.base_url.port or 80)) as wire:
        wire.sendall(b"PUT /v1/items HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 401")


# --------------------------------------------------------------------------------------------------------------- rates


@tried(max_examples=60, deadline=None)
@given(rate=st.floats(0.2, 500), gaps=st.lists(st.floats(0, 3), max_size=60))
def test_a_rate_admits_what_a_leaking_bucket_does(rate: float, gaps: list[float]) -> None:
    """Against the naive oracle: a bucket of `most_at_once` that fills at `rate`."""
    rates, now, level, last = RateLimiter(), 1000.0, 0.0, 1000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.security.rate_limiter.time.monotonic", lambda: now)
        for gap in gaps:
            now += gap
            level = max(0.0, level - (now - last) * rate)
            last = now
            if abs(level + 1 - most_at_once(rate)) < 1e-6:
                continue  # on the edge, where floats may round either way; neither takes it
            fits = level + 1 <= most_at_once(rate)
            allowed = rates.take(3, rate)
            assert allowed.ok == fits
            if fits:
                level += 1
                assert allowed.remaining == int(most_at_once(rate) - level + 1e-6)
            else:
                assert allowed.wait == pytest.approx((level + 1 - most_at_once(rate)) / rate)


def _take_all(file: Path, results: Any) -> None:
    rates = RateLimiter(file)
    results.put(sum(rates.take(7, 20).ok for _ in range(100)))


def test_processes_count_a_keys_requests_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    started = time.monotonic()
    workers = [context.Process(target=_take_all, args=(tmp_path / "rates", results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.monotonic() - started
    assert most_at_once(20) <= sum(results.get() for _ in workers) <= most_at_once(20) + 20 * took + 1


def test_too_many_requests_are_told_when_to_come_again(guarded: tuple[Service, dict[str, str]]) -> None:
    service, keys = guarded
    answers = [service.client.get("/v1/suggest?q=h", headers=bearer(keys["slow"])) for _ in range(40)]
    late = next(answer for answer in answers if answer.status_code == 429)
    assert answers[0].status_code == 200
    assert answers[0].headers["ratelimit-policy"] == '"key";q=4;w=2'
    assert answers[0].headers["ratelimit"] == '"key";r=3;t=0'
    assert refused(late, 429)["code"] == "too_many_requests"
    assert int(late.headers["retry-after"]) >= 1
    assert good(service.client.get("/v1/suggest?q=h", headers=bearer(keys["query"])))  # another key is another's


# ------------------------------------------------------------------------------------------------ limits while reading


def test_bodies_are_limited_in_size_and_time_while_they_come(guarded: tuple[Service, dict[str, str]]) -> None:
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
def test_deeply_nested_json_is_the_callers_mistake(
    guarded: tuple[Service, dict[str, str]], path: str, opened: str
) -> None:
    service, keys = guarded
    headers = bearer(keys["admin"]) | {"content-type": "application/json"}
    method = "PUT" if path == "/v1/items" else "POST"
    response = service.client.request(method, path, content=opened * (19_000 // len(opened)), headers=headers)
    assert response.status_code in (400, 422)


def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, built: Settings) -> None:
    config = uvicorn.Config
    monkeypatch.setattr(uvicorn_protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(
        uvicorn, "Config", lambda *given, **named: config(*given, **named, http=uvicorn_protocol.PatientProtocol)
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


# ------------------------------------------------------------------------------------------------- origins and headers


def test_pages_of_elsewhere_cannot_use_a_service_without_keys(copied: Settings) -> None:
    with served(copied) as service:
        own = f"http://{service.client.base_url.netloc.decode()}"
        calls = [("POST", "/v1/releases/x/activate"), ("DELETE", "/v1/items/x")]
        for method, path in calls:
            for origin in ("https://evil.example", "null", "http://localhost:1", "http://["):
                response = service.client.request(method, path, headers={"origin": origin})
                assert refused(response, 403)["field"] == "origin"
            assert service.client.request(method, path, headers={"origin": own}).status_code == 404
        for host in ("evil.example", "[::1", "localhost.evil.example", "evil.example:80@localhost:x"):
            rebound = service.client.get("/v1/users", headers={"host": host})
            assert refused(rebound, 403)["field"] == "host"
        assert "access-control-allow-origin" not in service.client.get("/healthz", headers={"origin": own}).headers


def test_origins_of_the_setting_may_call_from_the_browser(copied: Settings) -> None:
    create_key(copied.store, "web", ["query"])
    shop = "https://shop.example"
    with served(copied.model_copy(update={"cors_origins": [shop]})) as service:
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


def test_every_answer_has_the_security_headers_and_an_id(
    guarded: tuple[Service, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, keys = guarded
    query = bearer(keys["query"])
    answers = [
        service.client.get("/"),
        service.client.get("/docs"),
        service.client.get("/healthz"),
        service.client.get("/v1/suggest?q=h", headers=query),
        service.client.get("/v1/suggest?q=h"),
        service.client.get("/v1/nothing", headers=query),
    ]
    monkeypatch.setattr(type(service.app.state.live.engine.view), "suggest", lambda *_: 1 / 0)
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


def test_logs_and_metrics_have_ids_and_times_and_neither_keys_nor_shoppers(
    guarded: tuple[Service, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    service, keys = guarded
    caplog.set_level(logging.INFO)
    answer = good(service.client.post("/v1/recommend", json={"user_id": "anna.smith"}, headers=bearer(keys["query"])))
    good(service.client.get("/v1/users/anna.smith", headers=bearer(keys["admin"])))
    refused(service.client.get("/v1/users/anna.smith", headers=bearer("vt_guessed")), 401)
    until(lambda: sum(record.message == "request" for record in caplog.records) >= 3)
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]  # that is the caller's log
    lines = [JsonLines().format(record) for record in ours]
    told = [json.loads(line) for line in lines]
    mine = next(each for each in told if each.get("request_id") == answer["request_id"])
    assert (mine["method"], mine["route"], mine["status"], mine["key"]) == ("POST", "/v1/recommend", 200, "query")
    assert mine["took_ms"] > 0
    metrics = service.client.get("/metrics", headers=bearer(keys["events"])).text
    assert 'vetrina_request_seconds_count{operation="GET /v1/users/{user_id}",status="200"}' in metrics
    for text in (*lines, metrics):
        assert "anna" not in text
        assert "vt_" not in text


def test_the_audit_log_says_who_did_what(guarded: tuple[Service, dict[str, str]]) -> None:
    service, keys = guarded
    admin, store = bearer(keys["admin"]), service.app.state.settings.store
    release = good(service.client.get("/v1/releases", headers=admin))["release"]
    good(service.client.post(f"/v1/releases/{release}/activate", headers=admin))
    item = {"item_id": "AUDIT-1", "title": "A thing"}
    good(service.client.put("/v1/items", json={"items": [item, {}]}, headers=bearer(keys["catalogue"])))
    good(service.client.delete("/v1/items/AUDIT-1", headers=bearer(keys["catalogue"])))
    good(service.client.delete("/v1/users/anna.smith", headers=admin))
    acts = audit_log.read(store, 4)
    assert [(act["act"], act["by"]) for act in acts] == [
        ("activate", "key admin"),
        ("put items", "key catalogue"),
        ("delete items", "key catalogue"),
        ("erase", "key admin"),
    ]
    assert acts[0]["release"] == acts[0]["before"] == release
    assert (acts[1]["created"], acts[1]["rejected"]) == (1, 1)
    assert acts[3]["user"] == audit_log.hashed("anna.smith")
    assert "anna" not in (store / "audit.jsonl").read_text()


def test_no_logger_of_the_server_tells_of_paths() -> None:
    """Uvicorn's own lines of requests have ids of shoppers in them."""
    configured = log_config("json")["loggers"]["uvicorn.access"]
    assert (configured["handlers"], configured["propagate"]) == ([], False)
