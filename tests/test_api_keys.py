"""API keys, their scopes and rates, and the audit log, over a real server."""

import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Run
from helpers.keys import KeyedService, bearer, keyed_service
from helpers.service import good, refused, until
from hypothesis import given
from hypothesis import settings as tried
from hypothesis import strategies as st

from serve.core.errors import BadRequest, NotFound
from serve.core.settings import Settings
from serve.http.app import create_app
from serve.http.permissions import ANY_KEY, OPEN_PATHS, PERMISSIONS, required_scope
from serve.security import audit_log
from serve.security.api_keys import ApiKeys, create_key, list_keys, revoke_key
from serve.security.rate_limiter import RateLimiter, max_burst


@pytest.fixture(scope="module")
def guarded(built: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    with keyed_service(built, tmp_path_factory.mktemp("guarded")) as running:
        yield running


# ---------------------------------------------------------------------------------------------------------------- keys


def test_keys_are_stored_as_hashes_and_a_running_service_sees_changes(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path)
    assert keys.is_empty
    secret = create_key(tmp_path, "web", ["query", "events"], rate=5)
    kept = (tmp_path / "keys.json").read_text()
    assert secret not in kept
    assert secret[3:] not in kept
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    until(lambda: not keys.is_empty)
    found = keys.find(secret)
    assert found is not None
    assert (found.name, found.rate) == ("web", 5)
    assert [found.allows(scope) for scope in ("query", "events", "catalogue", "admin")] == [True, True, False, False]
    assert keys.find(secret[:-1]) is keys.find("") is keys.find("vt_\udc80") is None
    other = create_key(tmp_path, "jobs", ["admin"])
    assert {key.number for key in list_keys(tmp_path)} == {0, 1}
    revoke_key(tmp_path, "web")
    until(lambda: keys.find(secret) is None)
    assert keys.find(other)
    with pytest.raises(NotFound, match="jobs"):
        revoke_key(tmp_path, "web")


@pytest.mark.parametrize(("name", "rate"), [("", None), ("x" * 101, None), ("a\nb", None), ("ok", -1.0)])
def test_invalid_keys_are_refused_by_field(tmp_path: Path, name: str, rate: float | None) -> None:
    with pytest.raises(BadRequest) as refusal:
        create_key(tmp_path, name, ["query"], rate)
    assert refusal.value.field == ("rate" if rate else "name")
    assert not list_keys(tmp_path)


def test_commands_create_list_and_revoke_keys_and_the_audit_log_has_all_of_it(
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
    assert [(act["action"], act["key"]) for act in acts] == [
        ("create key", "web"),
        ("create key", "ops"),
        ("revoke key", "web"),
    ]
    assert all(act["by"].startswith("command line") for act in acts)
    assert made["key"] not in (store / "audit.jsonl").read_text()


def test_the_audit_log_has_action_and_author(guarded: KeyedService) -> None:
    service, keys = guarded
    admin, store = bearer(keys["admin"]), service.app.state.settings.store
    release = good(service.client.get("/v1/releases", headers=admin))["release"]
    good(service.client.post(f"/v1/releases/{release}/activate", headers=admin))
    item = {"item_id": "AUDIT-1", "title": "A thing"}
    good(service.client.put("/v1/items", json={"items": [item, {}]}, headers=bearer(keys["catalogue"])))
    good(service.client.delete("/v1/items/AUDIT-1", headers=bearer(keys["catalogue"])))
    good(service.client.delete("/v1/users/anna.smith", headers=admin))
    acts = audit_log.read_latest(store, 4)
    assert [(act["action"], act["by"]) for act in acts] == [
        ("activate", "key admin"),
        ("put items", "key catalogue"),
        ("delete items", "key catalogue"),
        ("erase", "key admin"),
    ]
    assert acts[0]["release"] == acts[0]["before"] == release
    assert (acts[1]["created"], acts[1]["rejected"]) == (1, 1)
    assert acts[3]["user"] == audit_log.hash_user_id("anna.smith")
    assert "anna" not in (store / "audit.jsonl").read_text()


def test_an_audit_log_of_version_0_1_is_read(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_text(
        '{"at": "2026-01-01", "act": "erase", "by": "key a", "user": "x"}\n{"at": "cut'
    )
    audit_log.record(tmp_path, "publish", "command line", forced=True)
    old, new = audit_log.read_latest(tmp_path, 9)
    assert old == {"at": "2026-01-01", "action": "erase", "by": "key a", "user": "x"}
    assert (new["action"], new["by"], new["forced"]) == ("publish", "command line", True)
    assert audit_log.read_latest(tmp_path, 1) == [new]


# -------------------------------------------------------------------------------------------------------------- scopes


def test_the_table_of_permissions_covers_every_operation_and_nothing_else(built: Settings) -> None:
    operations = {
        (method.upper(), path)
        for path, methods in create_app(built).openapi()["paths"].items()
        for method in methods
        if path not in OPEN_PATHS
    }
    assert operations == PERMISSIONS.keys()


@pytest.mark.parametrize(
    "item_id", ["a", "copy", "similar", "related", "image", "items", "a%2Fcopy", "%2F", "..", "a;b"]
)
def test_an_operation_has_its_scope_whatever_the_id(item_id: str) -> None:
    for (method, pattern), scope in PERMISSIONS.items():
        path = pattern.replace("{item_id}", item_id).replace("{user_id}", item_id).replace("{release}", item_id)
        assert required_scope(method, path) == scope, (method, path)
    assert required_scope("HEAD", f"/v1/items/{item_id}") == "query"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/anything"),
        ("POST", "/v1/new"),
        ("GET", "/v1/search"),
        ("DELETE", "/v1/items/a/copy"),
        ("PUT", "/v1/items/a/copy"),
        ("POST", "/v1/items/a/b/copy"),
        ("POST", "/v1/items//copy"),
        ("DELETE", "/v1/items/"),
        ("PUT", "/v1/users/a/b/preferences"),
        ("BREW", "/v1/items/a"),
        ("GET", "/V1/search"),
        ("POST", "//v1/search"),
    ],
)
def test_unknown_calls_need_admin(method: str, path: str) -> None:
    assert required_scope(method, path) == "admin"


def test_pages_and_health_checks_are_open() -> None:
    assert {required_scope("GET", path) for path in (*OPEN_PATHS, "/docs/start.js", "/console/app.js")} == {None}


def test_an_item_named_like_an_operation_is_deleted_with_scope_catalogue_only(guarded: KeyedService) -> None:
    service, keys = guarded
    for item_id in ("copy", "similar", "related", "image"):
        item = {"items": [{"item_id": item_id, "title": "A thing"}]}
        good(service.client.put("/v1/items", json=item, headers=bearer(keys["catalogue"])))
        for scope in ("query", "events"):
            refusal = service.client.delete(f"/v1/items/{item_id}", headers=bearer(keys[scope]))
            assert "catalogue" in refused(refusal, 403)["message"]
        good(service.client.get(f"/v1/items/{item_id}", headers=bearer(keys["query"])))
        good(service.client.delete(f"/v1/items/{item_id}", headers=bearer(keys["catalogue"])))


def test_the_openapi_document_states_scopes(guarded: KeyedService) -> None:
    document = guarded[0].client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            scope = required_scope(method.upper(), path)
            assert ("security" in operation) == (scope is not None)
            assert f"`{scope}`" in operation["description"] or scope in (None, ANY_KEY)


@pytest.mark.parametrize("scope", ["query", "events", "catalogue", "admin"])
def test_a_key_allows_its_scope_only(guarded: KeyedService, scope: str) -> None:
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


# --------------------------------------------------------------------------------------------------------------- rates


@tried(max_examples=60, deadline=None)
@given(rate=st.floats(0.2, 500), gaps=st.lists(st.floats(0, 3), max_size=60))
def test_rates_equal_those_of_a_leaky_bucket(rate: float, gaps: list[float]) -> None:
    """Against the naive oracle: a bucket of `max_burst` that fills at `rate`."""
    rates, now, level, last = RateLimiter(), 1000.0, 0.0, 1000.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.security.rate_limiter.time.monotonic", lambda: now)
        for gap in gaps:
            now += gap
            level = max(0.0, level - (now - last) * rate)
            last = now
            if abs(level + 1 - max_burst(rate)) < 1e-6:
                continue  # on the edge, where floats may round either way; neither takes it
            fits = level + 1 <= max_burst(rate)
            allowed = rates.take(3, rate)
            assert allowed.ok == fits
            if fits:
                level += 1
                assert allowed.remaining == int(max_burst(rate) - level + 1e-6)
            else:
                assert allowed.wait == pytest.approx((level + 1 - max_burst(rate)) / rate)


def _take_all(file: Path, results: Any) -> None:
    rates = RateLimiter(file)
    results.put(sum(rates.take(7, 20).ok for _ in range(100)))


def test_processes_count_the_requests_of_a_key_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    started = time.monotonic()
    workers = [context.Process(target=_take_all, args=(tmp_path / "rates", results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.monotonic() - started
    assert max_burst(20) <= sum(results.get() for _ in workers) <= max_burst(20) + 20 * took + 1


def test_responses_state_when_to_retry(guarded: KeyedService) -> None:
    service, keys = guarded
    answers = [service.client.get("/v1/suggest?q=h", headers=bearer(keys["slow"])) for _ in range(40)]
    late = next(answer for answer in answers if answer.status_code == 429)
    assert answers[0].status_code == 200
    assert answers[0].headers["ratelimit-policy"] == '"key";q=4;w=2'
    assert answers[0].headers["ratelimit"] == '"key";r=3;t=0'
    assert refused(late, 429)["code"] == "too_many_requests"
    assert int(late.headers["retry-after"]) >= 1
    assert good(service.client.get("/v1/suggest?q=h", headers=bearer(keys["query"])))  # another key is another's
