"""A real service over a store, and checks of its responses."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import uvicorn

from serve.core.settings import Settings
from serve.http.app import create_app
from serve.security.access_mode import has_had_key
from serve.security.api_keys import disable_keys

ODD_IDS = [
    "a/b c?d#e%2F",
    "x/similar",
    "/",
    "//",
    ".",
    "..",
    "../..",
    "a;b&c=d+e",
    "100%",
    "%",
    "%zz",
    "ключ",
    "商品 1",
    "👟",
    '"quoted" \\ \'',
    "a:b@c",
    "search",
]


@dataclass
class Service:
    """A client of a running server, and its app."""

    client: httpx.Client
    app: Any

    def search(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/search", json=body)

    def ids(self, **body: Any) -> list[str]:
        return [item["item_id"] for item in good(self.search(**body))["items"]]


@contextmanager
def served(configured: Settings, keyless: bool = True) -> Iterator[Service]:
    """Run uvicorn in a thread, on a free port of the loopback interface; make a store that never had a key keyless."""
    if keyless and configured.store.is_dir() and not has_had_key(configured.store):
        disable_keys(configured.store)
    app = create_app(configured)
    # No log configuration: it would close the handlers of other packages, and with them the output of a test.
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            yield Service(client, app)
    finally:
        server.should_exit = True
        thread.join()


def good(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    body = json.loads(response.content, parse_constant=lambda name: pytest.fail(f"{name} in a response"))
    assert body["request_id"]
    assert body["release"]
    assert body["took_ms"] >= 0
    return body


def refused(response: httpx.Response, status: int = 422) -> dict[str, str]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "field"}
    assert body["error"]["code"]
    assert body["error"]["message"]
    assert "Traceback" not in response.text
    error: dict[str, str] = body["error"]
    return error


def until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happens():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def is_ready(port: int) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
    return False
