"""Who is served without an API key: access fails closed. Over a real server."""

import logging
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Run
from helpers.service import Service, good, refused, served, until
from starlette.types import Scope

from serve.cli.demo_tour import tour
from serve.core.errors import BadRequest, StoreUnavailable
from serve.core.settings import Settings
from serve.http.middleware.local_access import LocalAccess, is_loopback
from serve.jobs.build import build
from serve.jobs.doctor import examine
from serve.security import audit_log
from serve.security.access_mode import (
    has_had_key,
    is_keyless_by_default,
    is_undecided,
    read_access_mode,
    record_access_mode,
)
from serve.security.api_keys import ApiKeys, create_key, disable_keys, list_keys, revoke_key

OPEN = ("/", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/start.js", "/console/api.js")
CALLS = [
    ("GET", "/v1/me"),
    ("GET", "/v1/users"),
    ("POST", "/v1/search"),
    ("DELETE", "/v1/users/u1"),
    ("GET", "/metrics"),
]
Change = Callable[[Path], Any]


@pytest.fixture
def new(built: Settings, tmp_path: Path) -> Settings:
    """A store as a first build makes it: with a release, without a key."""
    feed = tmp_path / "feed.csv"
    feed.write_text("item_id,title\na,Red shoe\nb,Blue mug\n")
    settings = Settings(store=tmp_path / "store")
    build(settings, feed)
    return settings


def make_old(store: Path) -> None:
    """Turn a store into one of version 0.1, which recorded no access mode, build inputs or database id."""
    for name in ("access.json", "build_inputs.json", "database-id"):
        (store / name).unlink(missing_ok=True)


def assert_closed(service: Service, status: int = 401) -> str:
    """Every operation is refused, whatever the caller claims; return the message."""
    claims: list[dict[str, str]] = [{}, {"host": "localhost"}, {"authorization": "Bearer vt_guess"}]
    for headers in claims:
        for method, path in CALLS:
            refused(service.client.request(method, path, headers=headers), status)
    for path in OPEN:
        assert service.client.get(path).status_code == 200
    return refused(service.client.get("/v1/me"), status)["message"]


def test_a_new_store_serves_nobody_until_it_has_a_key_or_keys_are_disabled(new: Settings) -> None:
    assert read_access_mode(new.store) == "keys"
    with served(new, keyless=False) as service:
        message = assert_closed(service)
        assert "vetrina keys create NAME" in message
        assert "vetrina keys disable" in message
        disable_keys(new.store)
        until(lambda: service.client.get("/v1/me").status_code == 200)
        assert service.client.get("/v1/me").json()["auth"] == "none"
        secret = create_key(new.store, "web", ["query"])
        until(lambda: service.client.get("/v1/me").status_code == 401)
        found = service.client.get("/v1/me", headers={"authorization": f"Bearer {secret}"}).json()
        assert (found["auth"], found["keys"], found["name"], found["scopes"]) == ("keys", True, "web", ["query"])


def test_a_store_that_does_not_exist_yet_serves_nobody_also_after_its_first_build(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "store")
    feed = tmp_path / "feed.csv"
    feed.write_text("item_id,title\na,A\nb,B\n")
    with served(settings, keyless=False) as service:
        refused(service.client.get("/v1/me"), 401)
        build(settings, feed)
        until(lambda: service.client.get("/readyz").status_code == 200)
        assert_closed(service)


def test_a_keyless_store_serves_local_callers_and_no_forwarded_request(new: Settings) -> None:
    disable_keys(new.store)
    with served(new, keyless=False) as service:
        assert service.client.get("/v1/me").json()["auth"] == "none"
        assert len(good(service.search(text="shoe"))["items"]) == 2
        for header, value in (
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "127.0.0.1"),
            ("X-Forwarded-For", "10.0.0.1"),
            ("x-forwarded-host", "localhost"),
            ("x-forwarded-proto", "https"),
            ("via", "1.1 proxy"),
            ("X-Real-IP", "127.0.0.1"),
            ("X-Client-IP", "10.0.0.1"),
            ("True-Client-IP", "10.0.0.1"),
            ("CF-Connecting-IP", "10.0.0.1"),
        ):
            for method, path in CALLS:
                refusal = service.client.request(method, path, headers={header: value, "host": "localhost"})
                assert "API key" in refused(refusal, 403)["message"]
            assert service.client.get("/healthz", headers={header: value}).status_code == 200


@pytest.mark.parametrize(
    ("listens", "peer", "allowed"),
    [
        ("127.0.0.1", ("127.0.0.1", 1), True),
        ("::1", ("::1", 1), True),
        ("127.0.0.1", ("10.0.0.1", 1), False),
        ("127.0.0.1", ("localhost.example", 1), False),
        ("127.0.0.1", None, False),
        ("0.0.0.0", ("127.0.0.1", 1), False),
        ("10.0.0.1", ("127.0.0.1", 1), False),
    ],
)
def test_local_is_the_address_of_the_peer(listens: str, peer: Any, allowed: bool) -> None:
    scope: Scope = {"method": "GET", "client": peer, "headers": [(b"host", b"localhost")]}
    assert (LocalAccess(listens, []).check(scope) is None) == allowed


def test_addresses_of_this_machine() -> None:
    hosts = ["127.0.0.1", "127.8.8.8", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "shop.example", ""]
    assert [host for host in hosts if is_loopback(host)] == hosts[:4]


def test_web_pages_of_other_origins_cannot_use_a_keyless_store(new: Settings) -> None:
    with served(new) as service:
        own = f"http://{service.client.base_url.netloc.decode()}"
        for method, path in (("POST", "/v1/releases/x/activate"), ("DELETE", "/v1/items/x")):
            for origin in ("https://evil.example", "null", "http://localhost:1", "http://["):
                response = service.client.request(method, path, headers={"origin": origin})
                assert refused(response, 403)["field"] == "origin"
            assert service.client.request(method, path, headers={"origin": own}).status_code == 404
        for host in ("evil.example", "[::1", "localhost.evil.example", "evil.example:80@localhost:x"):
            rebound = service.client.get("/v1/users", headers={"host": host})
            assert refused(rebound, 403)["field"] == "host"
        assert "access-control-allow-origin" not in service.client.get("/healthz", headers={"origin": own}).headers


def revoke_last(store: Path) -> None:
    revoke_key(store, "web")


def delete_keys(store: Path) -> None:
    (store / "keys.json").unlink()


def delete_both(store: Path) -> None:
    (store / "keys.json").unlink()
    (store / "access.json").unlink()


@pytest.mark.parametrize("change", [revoke_last, delete_keys, delete_both])
def test_a_store_that_ever_had_a_key_serves_nobody_without_one(new: Settings, change: Change) -> None:
    create_key(new.store, "web", ["admin"])
    audit_log.record(new.store, "create key", "test", key="web")  # as the command does
    with served(new, keyless=False) as service:
        assert_closed(service)
        change(new.store)
        until(lambda: ApiKeys(new.store).is_empty)
        until(lambda: "no API key" in refused(service.client.get("/v1/me"), 401)["message"])
        assert_closed(service)
    with served(new, keyless=False) as service:  # nor after a restart
        assert_closed(service)


@pytest.mark.parametrize("name", ["keys.json", "access.json"])
@pytest.mark.parametrize("damage", ["", '{"keys": [', '{"auth": "all"}', "null"])
def test_a_damaged_file_closes_the_store(new: Settings, name: str, damage: str) -> None:
    create_key(new.store, "web", ["query"])
    with served(new, keyless=False) as service:
        refused(service.client.get("/v1/me"), 401)
        (new.store / name).write_text(damage)
        until(lambda: service.client.get("/v1/me").status_code == 503)
        assert name in assert_closed(service, 503)
    with served(new, keyless=False) as service:
        assert name in assert_closed(service, 503)
    finding = next(each for each in examine(new) if each.subject == "access")
    assert (finding.state, name in finding.detail) == ("wrong", True)
    with pytest.raises(StoreUnavailable, match=name):
        create_key(new.store, "other", ["query"])


def test_a_store_of_version_0_1_without_a_key_is_keyless_with_a_warning(
    new: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    make_old(new.store)
    assert is_keyless_by_default(new.store)
    caplog.set_level(logging.WARNING)
    with served(new, keyless=False) as service:
        assert good(service.search(text="shoe"))["items"]
        refused(service.client.get("/v1/users", headers={"x-forwarded-for": "10.0.0.1"}), 403)
        warnings = [record.getMessage() for record in caplog.records if "version 0.1" in record.getMessage()]
        assert len(warnings) == 1
        assert "vetrina keys create" in warnings[0]
        assert "vetrina keys disable" in warnings[0]
        create_key(new.store, "web", ["query"])
        until(lambda: service.client.get("/v1/me").status_code == 401)
        delete_both(new.store)  # and nothing of it in the audit log: the running service remembers
        until(lambda: "no API key" in refused(service.client.get("/v1/me"), 401)["message"])


def test_the_mode_of_an_old_store_is_recorded_and_the_warning_stays_until_a_command_decides(
    new: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    make_old(new.store)
    caplog.set_level(logging.WARNING)
    for starts in (1, 2):
        with served(new, keyless=False) as service:
            assert good(service.search(text="shoe"))["items"]
            good(
                service.client.post("/v1/events", json={"events": [{"user_id": "u", "item_id": "a", "type": "click"}]})
            )
        assert (new.store / "database-id").exists()
        assert read_access_mode(new.store) == "none"
        assert sum("version 0.1" in record.getMessage() for record in caplog.records) == starts
    disable_keys(new.store)
    assert not is_keyless_by_default(new.store)
    with served(new, keyless=False) as service:
        assert good(service.search(text="shoe"))["items"]
    assert sum("version 0.1" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize("name", ["build_inputs.json", "database-id"])
def test_an_incomplete_store_of_this_version_is_closed(new: Settings, name: str) -> None:
    make_old(new.store)
    (new.store / name).touch()
    assert ApiKeys(new.store).auth == "keys"
    record_access_mode(new.store)
    assert read_access_mode(new.store) == "keys"


def test_an_old_store_that_may_only_be_read_is_keyless(new: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    make_old(new.store)
    monkeypatch.setattr("serve.security.access_mode.write_file", refuse)
    assert ApiKeys(new.store).auth == "none"
    assert not (new.store / "access.json").exists()


def test_jobs_record_the_mode_of_an_old_store_and_leave_it_undecided(new: Settings) -> None:
    make_old(new.store)
    build(new, force=True)
    assert read_access_mode(new.store) == "none"
    assert is_undecided(new.store)
    assert is_keyless_by_default(new.store)
    create_key(new.store, "web", ["query"])
    make_old(new.store)
    record_access_mode(new.store)
    assert read_access_mode(new.store) == "keys"


@pytest.mark.parametrize("line", ['{"at": "x", "act": "create key", "by": "y"}', '{"at": "x", "action": "create key"}'])
def test_a_key_of_the_past_is_found_in_the_audit_log(new: Settings, line: str) -> None:
    make_old(new.store)
    assert not has_had_key(new.store)
    (new.store / "audit.jsonl").write_text(f'{{"at": "x", "act": "publish"}}\n{line}\n{{"at": "cut o')
    assert has_had_key(new.store)
    with served(new, keyless=False) as service:
        assert_closed(service)


def test_keys_are_disabled_by_hand_only_where_there_is_none(run: Run, new: Settings) -> None:
    store = new.store
    assert run("keys", "create", "web", "--store", store)[0] == 0
    code, _, errors = run("keys", "disable", "--store", store)
    assert (code, "web" in errors) == (2, True)
    with pytest.raises(BadRequest, match="revoke"):
        disable_keys(store)
    assert run("keys", "revoke", "web", "--store", store)[0] == 0
    assert ApiKeys(store).auth == "keys"
    assert run("keys", "disable", "--store", store)[0] == 0
    assert ApiKeys(store).auth == "none"
    assert audit_log.read_latest(store, 1)[0]["action"] == "disable keys"
    assert not list_keys(store)


def test_doctor_states_the_access_mode(new: Settings) -> None:
    def finding() -> tuple[str, str]:
        return next((each.state, each.detail) for each in examine(new) if each.subject == "access")

    assert finding()[0] == "off"
    disable_keys(new.store)
    assert finding() == ("good", "keyless: requests from this machine need no API key")
    make_old(new.store)
    assert finding()[0] == "wrong"
    create_key(new.store, "web", ["query"])
    assert finding() == ("good", "API keys required; 1 of them")


def test_keyless_stores_are_not_served_to_other_machines(run: Run, built: Settings) -> None:
    assert read_access_mode(built.store) == "none"
    code, _, errors = run("serve", "--host", "0.0.0.0", "--store", built.store)
    assert code == 2
    assert "vetrina keys create" in " ".join(errors.split())


def test_the_demo_makes_its_own_store_keyless_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: Any, **__: Any) -> None:
        raise Stopped

    shutil.copyfile(shop / "README.txt", tmp_path / "README.txt")  # the shop is drawn already
    monkeypatch.setattr("serve.cli.demo_tour.build", stop)
    with pytest.raises(Stopped):
        tour(tmp_path)
    assert read_access_mode(tmp_path / "store") == "none"
    create_key(tmp_path / "store", "web", ["query"])
    with pytest.raises(Stopped):
        tour(tmp_path)
    assert read_access_mode(tmp_path / "store") == "keys"


def test_a_request_without_a_key_is_refused_before_its_body_is_read(new: Settings) -> None:
    with served(new, keyless=False) as service:
        address = (service.client.base_url.host, service.client.base_url.port or 80)
        with socket.create_connection(address) as wire:
            wire.sendall(b"PUT /v1/items HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\n\r\n")
            assert wire.recv(1000).startswith(b"HTTP/1.1 401")
