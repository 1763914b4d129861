"""Reads the bytes of images by reference: files in one folder, and public URLs if the settings allow them."""

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

from embed.images.decode import DEFAULT_LIMITS, ImageLimits, ImageRefused
from embed.images.files import ImageFolder, make_refusal, make_too_large_refusal
from embed.images.host_throttle import HostBusy, HostThrottle
from embed.images.object_stores import SCHEMES, ObjectStores

Resolver = Callable[[str, int], list[str]]
"""Host name and port -> IP addresses as text; raises OSError."""


@lru_cache(maxsize=1)
def _trusted() -> SSLContext:
    """Return the trusted certificates. Cached: loading is slow, and sources are also made for single photos."""
    return httpx.create_ssl_context(trust_env=False)


class ImageSource:
    """Reads images by reference; thread-safe, and keeps connections open.

    A reference is a path relative to `root` (or absolute, but inside it), a member of a tar in it (see
    embed.images.files), an http(s) URL if `allow_http`, or an object in one of the `stores` (s3, gs, az). A file whose
    name looks like a URL is written `./name:with:colons`. Failures that may be temporary, such as a busy server, are
    tried `tries` times. `resolve` and `connect` are for tests.
    """

    def __init__(
        self,
        root: Path | None,
        *,
        allow_http: bool = False,
        stores: Sequence[str] = (),
        limits: ImageLimits = DEFAULT_LIMITS,
        timeout_s: float = 10.0,
        max_redirects: int = 3,
        tries: int = 1,
        resolve: Resolver | None = None,
        connect: httpcore.NetworkBackend | None = None,
    ) -> None:
        self._folder = None if root is None else ImageFolder(root, limits.max_bytes)
        self._arguments: dict[str, Any] = {
            "root": root,
            "allow_http": allow_http,
            "stores": stores,
            "limits": limits,
            "timeout_s": timeout_s,
            "max_redirects": max_redirects,
            "tries": tries,
        }
        self._throttle = HostThrottle(tries)
        self._object_stores = ObjectStores(stores, self._throttle, limits.max_bytes)
        self.limits = limits
        self._timeout_s = timeout_s
        self._max_redirects = max_redirects
        # httpcore, the layer below httpx, takes no proxies or certificates from the environment, and does not follow
        # redirects, store cookies or decompress. In httpx all of these would have to be disabled.
        self._pool = (
            httpcore.ConnectionPool(
                ssl_context=_trusted(),
                max_connections=64,
                max_keepalive_connections=16,
                keepalive_expiry=15.0,
                network_backend=_PublicHostsOnly(resolve or _resolve, connect or httpcore.SyncBackend()),
            )
            if allow_http
            else None
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: each process has its own connections and its own throttle."""
        return partial(ImageSource, **self._arguments), ()

    def read(self, reference: str) -> bytes:
        """Return the bytes of an image, at most `limits.max_bytes`; raises ImageRefused."""
        scheme = self._scheme(reference)
        if scheme in self._object_stores:
            return self._object_stores.read(reference)
        return self._read_url(reference) if scheme else self._read_file(reference)

    def load(self, reference: str, has: Callable[[bytes], bool]) -> tuple[bytes, bytes | None]:
        """Return an image's key and its bytes; no bytes if `has(key)`, so that a URL is not fetched again.

        The key (16 bytes) of a file is the hash of its bytes. The key of a URL is the hash of the URL, because fetching
        every photo on every run would be the whole cost of the run. A new photo therefore needs a new URL, which the
        CDNs of shops give it.
        """
        if scheme := self._scheme(reference):
            if scheme not in self._object_stores:
                check_url(reference)
            key = blake2b(reference.encode(), digest_size=16, person=b"url").digest()
            return key, None if has(key) else self.read(reference)
        data = self._read_file(reference)
        key = blake2b(data, digest_size=16).digest()
        return key, None if has(key) else data

    def _read_file(self, reference: str) -> bytes:
        if self._folder is None:
            raise make_refusal("outside_root", reference, "no image folder is set: set image_root")
        return self._folder.read(reference)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _scheme(self, reference: str) -> str:
        """Return the scheme of a reference, empty for a file; raises ImageRefused for one that is not allowed."""
        if not reference.strip():
            raise ImageRefused("empty", "the image reference is blank: give a path or URL")
        if not (match := re.match(r"([a-z][a-z0-9+.-]*):", reference, re.IGNORECASE)):
            return ""
        scheme = match[1].lower()
        if scheme in self._object_stores:
            return scheme
        if scheme in SCHEMES:
            raise make_refusal("fetch_forbidden", reference, f'{scheme}: is disabled: set image_stores = ["{scheme}"]')
        if scheme not in ("http", "https"):
            raise make_refusal("fetch_forbidden", reference, f"{match[1]}: is not supported: use a path or http(s)")
        if self._pool is None:
            raise make_refusal("fetch_forbidden", reference, "URLs are disabled: set allow_http_images = true")
        return scheme

    def _read_url(self, url: str) -> bytes:
        check_url(url)
        return self._throttle.call(httpx.URL(url).host, lambda: self._try(url))

    def _try(self, url: str) -> bytes:
        """Fetch a URL once; raises HostBusy if a retry may help."""
        token = _deadline.set(time.monotonic() + self._timeout_s)
        try:
            return self._follow(url)
        except (httpcore.TimeoutException, TimeoutError) as error:
            raise HostBusy(make_refusal("fetch_failed", url, f"timed out after {self._timeout_s:g} s")) from error
        except UnicodeError as error:
            raise make_refusal("fetch_failed", url, str(error)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise HostBusy(make_refusal("fetch_failed", url, str(error) or type(error).__name__)) from error
        finally:
            _deadline.reset(token)

    def _follow(self, url: str) -> bytes:
        assert self._pool is not None  # noqa: S101  checked by _scheme
        at = url
        for _ in range(self._max_redirects + 1):
            check_url(at)
            parsed = httpx.URL(at)
            with self._pool.stream(
                "GET",
                httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path),
                headers={
                    "Host": parsed.netloc.decode("ascii"),
                    "User-Agent": "vetrina",
                    "Accept": "image/*",
                    "Accept-Encoding": "identity",  # so that the counted bytes are the final size
                },
                extensions={"timeout": {"pool": _time_left()}},
            ) as response:
                headers = {name.lower(): value for name, value in response.headers}
                if response.status not in (301, 302, 303, 307, 308):
                    return self._body(url, response, headers)
            try:
                at = str(parsed.join(headers[b"location"].decode("utf-8")))
            except (KeyError, ValueError, httpx.InvalidURL) as error:
                raise make_refusal(
                    "fetch_failed", url, f"redirect ({response.status}) without a valid target"
                ) from error
        raise make_refusal("fetch_failed", url, f"more than {self._max_redirects} redirects")

    def _body(self, url: str, response: httpcore.Response, headers: dict[bytes, bytes]) -> bytes:
        if response.status != 200:
            refused = make_refusal("fetch_failed", url, f"the server responded {response.status}")
            if response.status in _BUSY:
                after = headers.get(b"retry-after", b"")
                raise HostBusy(refused, float(after[:9]) if after.isdigit() else 0.0)
            raise refused
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise make_refusal("fetch_failed", url, "the server compressed its response although it was asked not to")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.limits.max_bytes:
            raise make_too_large_refusal(url, self.limits.max_bytes)
        data = bytearray()
        for chunk in response.iter_stream():
            data += chunk
            if len(data) > self.limits.max_bytes:
                raise make_too_large_refusal(url, self.limits.max_bytes)
        return bytes(data)


def check_url(url: str) -> None:
    """Refuse, without network access, a URL that cannot be that of a public image; raises ImageRefused.

    The host of an accepted URL may still resolve to a private address, which is checked again on connection.
    """
    try:
        parsed = httpx.URL(url)  # the parser of the connection itself: two parsers might disagree
    except (httpx.InvalidURL, ValueError) as error:  # ValueError: unpaired surrogates
        raise make_refusal("fetch_forbidden", url, f"not a URL ({error})") from None
    if parsed.scheme not in ("http", "https"):
        raise make_refusal("fetch_forbidden", url, "only http and https are fetched")
    if parsed.userinfo:
        raise make_refusal("fetch_forbidden", url, "URLs with user names or passwords are not allowed")
    if parsed.port not in _PORTS:
        raise make_refusal("fetch_forbidden", url, f"port {parsed.port} is not allowed: use 80, 443, 8080 or 8443")
    host = parsed.raw_host.decode("ascii").rstrip(".").lower()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        _check_name(url, host)
    else:
        check_address(host)


def check_address(address: str) -> None:
    """Refuse an IP address, or an IPv4 address embedded in IPv6, that is not public; raises ImageRefused."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        raise make_refusal("fetch_forbidden", address, "not an IP address") from None
    if isinstance(ip, ipaddress.IPv6Address) and (ip.ipv4_mapped or ip in _NAT64):
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    public = ip.is_global and not (ip.is_multicast or ip.is_reserved)
    if not public or (ip.version == 6 and ip not in _UNICAST) or any(ip in network for network in _NOT_PUBLIC):
        raise make_refusal("fetch_forbidden", address, "not a public address")


_BUSY = (408, 425, 429, 500, 502, 503, 504)
_PORTS = (None, 80, 443, 8080, 8443)  # None: the scheme's own
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: IPv4 addresses for hosts that only have IPv6
_UNICAST = ipaddress.ip_network("2000::/3")  # all assigned IPv6 addresses
_NOT_PUBLIC = [  # not public, but global for ipaddress in some versions of Python
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments, including a cloud's metadata service
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a cloud's host agent, on a public-looking address
        "2001::/23",  # Teredo and other protocol assignments
        "2002::/16",  # 6to4: embedded IPv4
        "3fff::/20",  # documentation
    )
]
_LOCAL_SUFFIXES = (".localhost", ".local", ".localdomain", ".internal", ".intranet", ".lan", ".home.arpa")


def _check_name(url: str, host: str) -> None:
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+", host) or host.endswith(_LOCAL_SUFFIXES):
        raise make_refusal("fetch_forbidden", url, "the host is not a public name")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]):  # http://0177.0.0.1, http://0x7f.1
        raise make_refusal("fetch_forbidden", url, "the host is an IP address in a non-standard notation")


class _PublicHostsOnly(httpcore.NetworkBackend):
    """Resolves names itself and connects only to addresses that it has checked.

    A second, different response of a name server thus has no effect. TLS still verifies the name.
    """

    def __init__(self, resolve: Resolver, connect: httpcore.NetworkBackend) -> None:
        self._resolve = resolve
        self._connect = connect
        self._resolving = ThreadPoolExecutor(16, "resolve")  # the system's resolver has no timeout

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        resolved = self._resolving.submit(self._resolve, host, port)
        try:
            addresses = resolved.result(_time_left())
        finally:
            resolved.cancel()  # if it has not started, it must not block later requests
        try:
            for address in addresses:  # one private address suffices: a public host has none
                check_address(address)
        except ImageRefused as error:  # without the address: callers must not be able to map a network
            raise make_refusal("fetch_forbidden", host, "the host has an address that is not public") from error
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for tried, address in enumerate(addresses):
            share = _time_left() / (len(addresses) - tried)  # so that an unreachable IPv6 address leaves time for IPv4
            try:
                return _TimedStream(self._connect.connect_tcp(address, port, share, local_address, socket_options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.NetworkStream:
        raise make_refusal("fetch_forbidden", path, "Unix sockets are not allowed")


_deadline: ContextVar[float] = ContextVar("deadline")  # of the fetch in this thread; connections are shared


def _time_left() -> float:
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout
    return left


class _TimedStream(httpcore.NetworkStream):
    """A connection whose every step ends by the deadline; a limit per step would let a slow server go on endlessly."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _time_left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _time_left())

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _TimedStream(self._inner.start_tls(ssl_context, server_hostname, _time_left()))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def close(self) -> None:
        self._inner.close()


def _resolve(host: str, port: int) -> list[str]:
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
