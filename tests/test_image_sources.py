"""Reading of images from files, tar shards, URLs and object stores; no reference leads where it must not."""

import gzip
import io
import os
import socket
import ssl
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, ClassVar

import fsspec
import httpcore
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from helpers.images import Loopback, refusal
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.errors import BadInput
from embed.images import host_throttle
from embed.images.decode import ImageLimits, ImageRefused
from embed.images.fetch import ImageSource, check_address, check_url

PUBLIC = "93.184.216.34"  # never connected to: the tests' connector goes to the local server instead


# ------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.png").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a.png").write_bytes(b"photo")
    (root / "within").symlink_to(root / "sub")
    (root / "out").symlink_to(tmp_path)
    (root / "out.png").symlink_to("../secret.png")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    return root


def test_files_inside_the_root(folder: Path) -> None:
    source = ImageSource(folder)
    for reference_ in ("sub/a.png", "./sub/../sub/a.png", "within/a.png", str(folder / "sub" / "a.png")):
        assert source.read(reference_) == b"photo"
    key, data = source.load("sub/a.png", lambda key: False)
    assert data == b"photo"
    assert source.load("within/a.png", lambda known: known == key) == (key, None)
    (folder / "sub" / "a.png").write_bytes(b"other")
    changed, data = source.load("sub/a.png", lambda known: known == key)
    assert changed != key
    assert data == b"other"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("../secret.png", "outside_root"),
        ("sub/../../secret.png", "outside_root"),
        ("out/secret.png", "outside_root"),
        ("out.png", "outside_root"),
        ("/etc/passwd", "outside_root"),
        ("/etc/no such file", "outside_root"),
        ("//etc/passwd", "outside_root"),
        ("~/x.png", "not_found"),
        ("no.png", "not_found"),
        ("sub", "unreadable"),
        (".", "unreadable"),
        ("pipe", "unreadable"),
        ("loop", "unreadable"),
        ("sub/a.png/b", "unreadable"),
        ("a\0b.png", "unreadable"),
        ("\ud800.png", "unreadable"),
        ("x" * 5000, "unreadable"),
        ("", "empty"),
        (" \n", "empty"),
        ("file:///etc/passwd", "fetch_forbidden"),
        ("FILE:sub/a.png", "fetch_forbidden"),
        ("data:image/png;base64,AAAA", "fetch_forbidden"),
    ],
)
def test_paths_that_lead_nowhere(folder: Path, path: str, code: str) -> None:
    assert refusal(lambda: ImageSource(folder).read(path)) == code
    assert refusal(lambda: ImageSource(folder).load(path, lambda key: False)) == code


def test_file_limits(folder: Path) -> None:
    assert refusal(lambda: ImageSource(folder, limits=ImageLimits(max_bytes=4)).read("sub/a.png")) == "too_many_bytes"
    assert ImageSource(folder, limits=ImageLimits(max_bytes=5)).read("sub/a.png") == b"photo"
    assert refusal(lambda: ImageSource(None).read("sub/a.png")) == "outside_root"


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_reference(text: str) -> None:
    source = ImageSource(Path(__file__).parent / "no such folder")
    assert refusal(lambda: source.read(text))
    for url in (text, f"http://{text}"):
        with suppress(ImageRefused):
            check_url(url)


# -------------------------------------------------------------------------------------------------------------- URLs


class Shop(BaseHTTPRequestHandler):
    """A small CDN with bad habits."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()
    alive = most_alive = 0
    lock = Lock()

    def do_GET(self) -> None:
        name = self.path.strip("/")
        if name.startswith("to="):
            self.answer(302, [("Location", name[3:])])
        elif name == "drip":
            self.answer(200, [("Content-Length", "100000")], None)
            self.drip(b"x")
        elif name == "drip_headers":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            self.drip(b"x")
        elif name == "large":
            self.answer(200, [("Content-Length", "999999999")], None)
        elif name == "endless":
            self.answer(200, [("Transfer-Encoding", "chunked")], None)
            self.drip(b"3e8\r\n" + b"x" * 1000 + b"\r\n", 0)
        elif name == "zipped":
            self.answer(200, [("Content-Encoding", "gzip")])
        elif name == "short":
            self.answer(200, [("Content-Length", "100"), ("Connection", "close")], b"half")
        elif name.startswith("busy="):  # the first so many times
            Shop.asked[name] += 1
            busy = Shop.asked[name] <= int(name[5:].partition("/")[0])
            self.answer(503 if busy else 200, [("Retry-After", "0")], b"photo")
        elif name.startswith("slow="):
            with Shop.lock:
                Shop.alive += 1
                Shop.most_alive = max(Shop.most_alive, Shop.alive)
            time.sleep(0.02)
            with Shop.lock:
                Shop.alive -= 1
            self.answer(200, [], b"photo")
        elif name == "once":
            self.answer(200, [("Connection", "close")], b"photo")
        else:
            self.answer(404 if name == "missing" else 200, [], b"photo of " + self.headers["Host"].encode())

    def answer(self, status: int, headers: list[tuple[str, str]], body: bytes | None = b"") -> None:
        self.send_response(status)
        for header in headers:
            self.send_header(*header)
        if body is not None and all(name != "Content-Length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body or b"")
        self.close_connection |= body is None

    def drip(self, piece: bytes, pause_s: float = 0.02) -> None:
        for _ in range(500):
            try:
                self.wfile.write(piece)
            except OSError:  # the reader has gone
                break
            time.sleep(pause_s)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def shop() -> Iterator[Loopback]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield Loopback(server.server_address[1])
    server.shutdown()
    server.server_close()


@pytest.fixture
def source(shop: Loopback) -> Iterator[ImageSource]:
    shop.asked.clear()

    def resolve(host: str, port: int) -> list[str]:
        if host == "unknown.example":
            raise socket.gaierror(-2, "Name or service not known")
        return {"private.example": ["10.0.0.5"], "mixed.example": [PUBLIC, "10.0.0.5"]}.get(host, [PUBLIC])

    source = ImageSource(
        None, allow_http=True, limits=ImageLimits(max_bytes=50_000), timeout_s=5, resolve=resolve, connect=shop
    )
    yield source
    source.close()


def test_url_is_read_with_connections_shared(source: ImageSource, shop: Loopback) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(source.read, ["http://cdn.example/a.jpg"] * 20)) == {b"photo of cdn.example"}
    assert set(shop.asked) == {PUBLIC}
    assert len(shop.asked) <= 4


def test_a_known_url_is_not_fetched(source: ImageSource, shop: Loopback) -> None:
    (one, _), (other, _) = (source.load(f"http://cdn.example/{n}.jpg", lambda key: True) for n in (1, 2))
    assert one != other
    assert shop.asked == []
    assert refusal(lambda: source.load("http://10.0.0.5/x.jpg", lambda key: True)) == "fetch_forbidden"


def test_urls_are_off_unless_switched_on() -> None:
    source = ImageSource(None)
    for call in (source.read, lambda url: source.load(url, lambda key: True)):
        with pytest.raises(ImageRefused, match="allow_http_images") as caught:
            call("https://cdn.example/a.jpg")
        assert caught.value.code == "fetch_forbidden"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("missing", "fetch_failed"),
        ("zipped", "fetch_failed"),
        ("short", "fetch_failed"),
        ("large", "too_many_bytes"),
        ("endless", "too_many_bytes"),
        ("to=http://cdn.example/to=http://cdn.example/to=http://cdn.example/to=http://cdn.example/x", "fetch_failed"),
        ("to=", "fetch_failed"),
        ("to=http://[", "fetch_forbidden"),
        ("to=http://10.0.0.5/x", "fetch_forbidden"),
        ("to=http://private.example/x", "fetch_forbidden"),
        ("to=http://user:word@cdn.example/x", "fetch_forbidden"),
        ("to=http://cdn.example:22/x", "fetch_forbidden"),
        ("to=file:///etc/passwd", "fetch_forbidden"),
    ],
)
def test_bad_answers(source: ImageSource, shop: Loopback, path: str, code: str) -> None:
    assert refusal(lambda: source.read(f"http://cdn.example/{path}")) == code
    assert set(shop.asked) == {PUBLIC}
    assert source.read("http://cdn.example/x") == b"photo of cdn.example"  # and the pool is none the worse


def test_redirects_are_followed(source: ImageSource) -> None:
    assert source.read("http://cdn.example/to=http://img.example:8080/x") == b"photo of img.example:8080"
    assert source.read("http://cdn.example/to=x") == b"photo of cdn.example"


@pytest.mark.parametrize("path", ["drip", "drip_headers"])
def test_slow_drip_is_cut(shop: Loopback, path: str) -> None:
    source = ImageSource(None, allow_http=True, timeout_s=0.2, resolve=lambda host, port: [PUBLIC], connect=shop)
    with pytest.raises(ImageRefused, match="timed out") as caught:
        source.read(f"http://cdn.example/{path}")
    assert caught.value.code == "fetch_failed"


def test_slow_resolver_is_cut() -> None:
    def resolve(host: str, port: int) -> list[str]:
        time.sleep(0.5)
        return [PUBLIC]

    source = ImageSource(None, allow_http=True, timeout_s=0.1, resolve=resolve, connect=Loopback())
    assert refusal(lambda: source.read("http://cdn.example/x")) == "fetch_failed"


def test_a_busy_server_is_asked_again_and_not_for_ever(shop: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_throttle, "FIRST_WAIT_S", 0.01)
    patient = ImageSource(None, allow_http=True, tries=3, resolve=lambda host, port: [PUBLIC], connect=shop)
    assert patient.read("http://cdn.example/busy=2") == b"photo"
    assert Shop.asked["busy=2"] == 3
    assert refusal(lambda: patient.read("http://cdn.example/busy=9")) == "fetch_failed"
    assert Shop.asked["busy=9"] == 3
    assert refusal(lambda: patient.read("http://cdn.example/missing")) == "fetch_failed"
    assert refusal(lambda: patient.read("http://cdn.example/busy=4/x")) == "fetch_failed"
    assert patient.read("http://cdn.example/busy=4/x") == b"photo"
    # A host that never answers must not hold up those that do.
    for number in range(host_throttle.MAX_FAILURES):
        assert refusal(partial(patient.read, f"http://cdn.example/busy=99/{number}")) == "fetch_failed"
    with pytest.raises(ImageRefused, match="retry later"):
        patient.read("http://cdn.example/fine")
    assert patient.read("http://img.example/fine") == b"photo of img.example"
    later = time.monotonic() + host_throttle.COOL_DOWN_S
    monkeypatch.setattr(host_throttle.time, "monotonic", lambda: later)
    assert patient.read("http://cdn.example/fine") == b"photo of cdn.example"


def test_a_host_is_asked_a_few_things_at_a_time(source: ImageSource) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(source.read, [f"http://cdn.example/slow={n}" for n in range(40)])) == {b"photo"}
    assert 1 < Shop.most_alive <= host_throttle.MAX_CONCURRENT


@pytest.fixture
def shard(folder: Path) -> Path:
    """A tar as webdataset lays it out, and what may go wrong in one."""
    (folder / "shards").mkdir()
    path = folder / "shards" / "00001.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in (("0001.jpg", b"one"), ("0001.json", b"{}"), ("./sub/0002.jpg", b"two"), ("big", b"x" * 90)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


def test_members_of_shards_are_read(folder: Path, shard: Path) -> None:
    source = ImageSource(folder, limits=ImageLimits(max_bytes=80))
    assert source.read("shards/00001.tar/0001.jpg") == b"one"
    assert source.read("shards/00001.tar/sub/0002.jpg") == b"two"
    key, data = source.load("shards/00001.tar/0001.jpg", lambda key: False)
    assert (key, data) == (blake2b(b"one", digest_size=16).digest(), b"one")  # as a file of its own has
    assert refusal(lambda: source.read("shards/00001.tar/0003.jpg")) == "not_found"
    assert refusal(lambda: source.read("shards/00001.tar/link.jpg")) == "not_found"
    assert refusal(lambda: source.read("shards/00009.tar/0001.jpg")) == "not_found"
    assert refusal(lambda: source.read("shards/00001.tar/big")) == "too_many_bytes"
    assert refusal(lambda: source.read("../00001.tar/0001.jpg")) == "outside_root"
    (folder / "folder.tar").mkdir()
    (folder / "folder.tar" / "a.jpg").write_bytes(b"plain")
    assert source.read("folder.tar/a.jpg") == b"plain"
    (folder / "zipped.tar").write_bytes(gzip.compress(shard.read_bytes()))
    assert refusal(lambda: source.read("zipped.tar/0001.jpg")) == "unreadable"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: whole.index(b"two") + 2])
    assert source.read("shards/00001.tar/0001.jpg") == b"one"
    assert refusal(lambda: source.read("shards/00001.tar/sub/0002.jpg")) == "unreadable"


def test_objects_of_a_store_are_read_where_it_is_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_throttle, "FIRST_WAIT_S", 0.01)
    fsspec.register_implementation("s3", MemoryFileSystem, clobber=True)
    system = fsspec.filesystem("s3")
    system.pipe("s3://shop/a.jpg", b"photo")
    system.pipe("s3://shop/big.jpg", b"x" * 90)
    source = ImageSource(None, stores=["s3"], limits=ImageLimits(max_bytes=80), tries=2)
    assert source.read("s3://shop/a.jpg") == b"photo"
    key, data = source.load("s3://shop/a.jpg", lambda key: False)
    assert data == b"photo"
    assert source.load("s3://shop/a.jpg", lambda known: known == key) == (key, None)
    assert refusal(lambda: source.read("s3://shop/b.jpg")) == "not_found"
    assert refusal(lambda: source.read("s3://shop/big.jpg")) == "too_many_bytes"
    for url in ("s3://", "s3://shop", "s3:///etc/passwd", "s3::file:///etc/passwd", "s3:shop/a.jpg"):
        assert refusal(partial(source.read, url)) == "fetch_forbidden"
    assert refusal(lambda: source.read("gs://shop/a.jpg")) == "fetch_forbidden"
    assert refusal(lambda: ImageSource(None).read("s3://shop/a.jpg")) == "fetch_forbidden"
    answers = [OSError("reset"), b"again"]

    def flaky(*_: Any, **__: Any) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
    assert source.read("s3://shop/a.jpg") == b"again"
    with pytest.raises(BadInput, match="ftp"):
        ImageSource(None, stores=["ftp"])


FORBIDDEN_URLS = """
    http://127.0.0.1:8000/metrics http://localhost/x.jpg http://[::1]/x.jpg http://0.0.0.0/ http://10.0.0.5/x.jpg
    http://192.168.1.1/x.jpg http://169.254.169.254/latest/meta-data/ http://[fe80::1]/ ftp://example.com/x.jpg
    file:///etc/passwd gopher://127.0.0.1:6379/_x http://user@127.0.0.1/x.jpg

    http://2130706433/ http://0x7f.1/ http://0x7f000001/ http://0177.0.0.1/ http://127.1/ http://127.0.0.1./
    http://0x7f.0.0.0x1/ http://1.2.3.4.5/ http://localhost./ http://a.localhost/ http://metadata.google.internal/
    http://metadata/ http://printer.local/ http://①②⑦.0.0.1/ http://127%2e0.0.1/ http://a..b/ http:///x http://
    http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/ http://[64:ff9b::7f00:1]/ http://[2002:7f00:1::]/
    http://[fe80::1%25eth0]/ http://[::]/ http://cdn.example\\@127.0.0.1/ http://127.0.0.1\\@cdn.example/
    http://127.0.0.1#@cdn.example/ http://127.0.0.1?@cdn.example/ http://u:p@cdn.example/ http://cdn.example:22/
    https://cdn.example:0/ http://cdn.example:99999/ http://cdn.example:x/ HTTP://LOCALHOST/
"""


@pytest.mark.parametrize(
    "url", [*FORBIDDEN_URLS.split(), "http://cdn.example/\r\nx", "http://127.0.0.1\t/", "http://\ud800/"]
)
def test_forbidden_urls(url: str) -> None:
    def resolve(host: str, port: int) -> list[str]:
        pytest.fail(f"{host} was looked up")

    source = ImageSource(None, allow_http=True, resolve=resolve, connect=Loopback())
    assert refusal(lambda: check_url(url)) == "fetch_forbidden"
    assert refusal(lambda: source.read(url)) == "fetch_forbidden"
    assert refusal(lambda: source.load(url, lambda key: True)) == "fetch_forbidden"


def test_allowed_urls() -> None:
    for url in (
        "https://cdn.example/a b.jpg?v=1#x",
        "http://münchen.example:8443/ü.jpg",
        "http://8.8.8.8/x",
        "HTTPS://A.B",
    ):
        check_url(url)


def test_names_at_private_addresses(source: ImageSource, shop: Loopback) -> None:
    assert refusal(lambda: source.read("http://private.example/x")) == "fetch_forbidden"
    assert refusal(lambda: source.read("http://mixed.example/x")) == "fetch_forbidden"
    assert refusal(lambda: source.read("http://unknown.example/x")) == "fetch_failed"
    assert shop.asked == []


def test_rebinding_never_reaches_the_private_address(shop: Loopback) -> None:
    answers = [[PUBLIC], ["127.0.0.1"]]
    shop.asked.clear()
    source = ImageSource(None, allow_http=True, resolve=lambda host, port: answers.pop(0), connect=shop)
    assert source.read("http://cdn.example/once") == b"photo"
    assert len(answers) == 1  # one look-up for one connection, and that to the address itself
    assert refusal(lambda: source.read("http://cdn.example/once")) == "fetch_forbidden"
    assert shop.asked == [PUBLIC]


def test_proxies_of_the_environment_are_ignored(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert source.read("http://cdn.example/x") == b"photo of cdn.example"


def test_tls_is_asked_for_the_name() -> None:
    seen: list[tuple[str | None, bool, ssl.VerifyMode]] = []

    class Stream(httpcore.NetworkStream):
        def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore.NetworkStream:
            seen.append((server_hostname, ssl_context.check_hostname, ssl_context.verify_mode))
            raise httpcore.ConnectError("far enough")

        def close(self) -> None:
            pass

    class Backend(Loopback):
        def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
            return Stream()

    source = ImageSource(None, allow_http=True, resolve=lambda host, port: [PUBLIC], connect=Backend())
    assert refusal(lambda: source.read("https://cdn.example/x")) == "fetch_failed"
    assert seen == [("cdn.example", True, ssl.CERT_REQUIRED)]


NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.0.1 169.254.169.254 172.16.0.1 172.31.255.1
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1 240.0.0.1
    255.255.255.255 168.63.129.16 :: ::1 ::8.8.8.8 ::ffff:10.0.0.1 ::ffff:0:8.8.8.8 64:ff9b::10.0.0.1 64:ff9b:1::1
    100::1 2001::1 2001:db8::1 2002:0808:0808:: 3fff::1 4000::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1
    ff02::1 2130706433 0x7f.1 127.1 nonsense
"""


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address: str) -> None:
    assert refusal(lambda: check_address(address)) == "fetch_forbidden"


def test_public_addresses() -> None:
    for address in ("8.8.8.8", PUBLIC, "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"):
        check_address(address)
