"""The service behind a proxy that publishes it under a path prefix."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urljoin

import httpx
import pytest
from helpers.service import good, refused, served

from serve.core.settings import Settings
from serve.http.app import create_app
from serve.security.api_keys import create_key

PREFIX = "/vetrina"


@contextmanager
def stripping_proxy(upstream: str) -> Iterator[str]:
    """Run a proxy that publishes a service under PREFIX and removes the prefix; its URL with a slash at the end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            assert self.path.startswith(f"{PREFIX}/"), self.path
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            path = self.path.removeprefix(PREFIX)
            with httpx.Client(base_url=upstream, trust_env=False, timeout=60) as client:
                response = client.request(self.command, path, content=body, headers=headers)
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                if name not in {"content-length", "content-encoding", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            self.send_header("content-length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_GET = do_POST = forward  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}{PREFIX}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_api_docs_and_console_work_behind_a_prefix(built: Settings) -> None:
    with (
        served(built.model_copy(update={"root_path": PREFIX})) as service,
        stripping_proxy(str(service.client.base_url)) as url,
        httpx.Client(trust_env=False, timeout=60) as client,
    ):
        document = client.get(f"{url}openapi.json").json()
        (server,) = document["servers"]
        base = urljoin(url, server["url"])
        assert base == url.rstrip("/")
        search = next(path for path, methods in document["paths"].items() if path.endswith("/search"))
        assert len(good(client.post(f"{base}{search}", json={"text": "red shoe", "k": 3}))["items"]) == 3
        odd = refused(client.get(f"{base}/v1/items/a%2Fb"), 404)
        assert (odd["code"], odd["field"]) == ("unknown_item", "item_id")
        for page in ("docs", ""):
            html = client.get(f"{url}{page}")
            assert html.status_code == 200
            links = re.findall(r'(?:src|href)="([^"#]+)"', html.text)
            assert links
            for link in links:
                if not link.startswith(("data:", "http")):
                    assert client.get(urljoin(f"{url}{page}", link)).status_code == 200, (page, link)
        # A proxy that keeps the prefix works too, and so do calls without it.
        for path in (f"{PREFIX}/v1/search", "/v1/search"):
            assert good(service.client.post(path, json={"text": "red shoe", "k": 1}))["items"]
        assert service.client.get(f"{PREFIX}/healthz").status_code == 200
        refused(service.client.get("/vetrinas/healthz"), 404)


@pytest.mark.parametrize("prefix", ["/console", "/docs", PREFIX])
def test_a_prefix_opens_nothing(copied: Settings, prefix: str) -> None:
    create_key(copied.store, "shop", ["query"])
    with served(copied.model_copy(update={"root_path": prefix})) as service:
        for path in ("/v1/users/u00001", f"{prefix}/v1/users/u00001", f"{prefix}{prefix}/v1/users/u00001"):
            assert service.client.get(path).status_code in {401, 404}, path
        refused(service.client.get(f"{prefix}/v1/users/u00001"), 401)


@pytest.mark.parametrize("prefix", ["vetrina", "/vetrina/", "/", "/a b", "/a//b", "https://shop.example/vetrina"])
def test_a_wrong_prefix_is_refused(copied: Settings, prefix: str) -> None:
    with pytest.raises(ValueError, match="root_path"):
        Settings(store=copied.store, root_path=prefix)


def test_the_document_does_not_depend_on_the_request(built: Settings) -> None:
    app = create_app(built.model_copy(update={"root_path": PREFIX}))
    assert app.openapi()["servers"][0]["url"] == PREFIX
