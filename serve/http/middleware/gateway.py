"""The front of the service: what every request passes before it reaches an operation, in one place and in one order.

A request gets an id; its key, scope and rate are checked; where there is too much to do it is refused at once; its body
is limited in size and time while it arrives. Its answer gets security headers, is timed, and is logged without anything
of the shopper in it: the log has the route, never the path with its ids, and never a key but by its name.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
from prometheus_client import Histogram
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.core.errors import ErrorResponse, StoreUnavailable, error_response, writable
from serve.core.metrics import REFUSED, REQUESTS, SHED
from serve.core.request_context import RequestContext, begin_request, request_span
from serve.core.settings import Settings
from serve.http.middleware.load_shedding import LoadShedder
from serve.http.permissions import ANY, scope_of
from serve.security.api_keys import ApiKeys, Key
from serve.security.rate_limiter import BURST_SECONDS, Allowance, RateLimiter, most_at_once

log = logging.getLogger("vetrina.access")
UNSHED = {"/", "/healthz", "/readyz", "/metrics", "/v1/me", "/openapi.json", "/docs"}
SAFE = {"GET", "HEAD", "OPTIONS"}
BUSY = "busy"
RETRY_SECONDS = 1
TELL_SECONDS = 10.0
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
NO_STORE = (b"cache-control", b"no-store")


@dataclass(frozen=True)
class Caller:
    """Who calls: the key, None where none is needed, and what is left of its rate."""

    key: Key | None = None
    allowance: Allowance | None = None
    rate: float = 0.0

    @property
    def name(self) -> str:
        return self.key.name if self.key else ""


class _Refused(Exception):
    """A request that is not let in, and headers that say what to do about it."""

    def __init__(self, found: ErrorResponse, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(found.message)
        self.found, self.headers = found, headers


class Gateway:
    """The outermost layer of the app, but for the one that undoes nothing of an encoded path."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: ApiKeys, load: LoadShedder, rates: Path | None) -> None:
        self._app, self._settings, self._keys, self._load = app, settings, keys, load
        self._rates, self._tell_again = RateLimiter(rates), 0.0
        self._is_local = is_loopback(settings.host)
        self._hosts = {"localhost", "127.0.0.1", "::1", settings.host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        answering = RequestContext(late_from=time.monotonic() + self._settings.timeouts.answer)
        begin_request(answering)
        status, caller, admitted, shed = 500, Caller(), False, False

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.setdefault("headers", [])
                headers += HEADERS
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(NO_STORE)
                headers.append((b"x-request-id", answering.id.encode()))
                if caller.allowance is not None:
                    headers += _rate_headers(caller)
            await send(message)

        try:
            caller = self._let_in(scope)
            scope.setdefault("state", {})["caller"] = caller
            if caller.allowance is not None and not caller.allowance.ok:
                raise _too_many(caller)
            if scope["path"] not in UNSHED and not scope["path"].startswith("/console/"):
                if not self._load.admit():
                    raise self._busy()
                admitted = True
            with request_span(Headers(scope=scope)) as span:
                await self._app(scope, self._limited(scope, receive), sent)
                if span is not None:
                    _describe(span, scope, status, answering)
        except _Refused as refused:
            shed = refused.found.code == BUSY
            REFUSED.labels(refused.found.status).inc()
            await _answer(refused, sent)
        finally:
            took = time.perf_counter() - started
            if admitted:
                self._load.done(took)
            self._tell(scope, status, took, caller, answering, shed)

    def _let_in(self, scope: Scope) -> Caller:
        """Who calls; raises _Refused for who may not."""
        headers = Headers(scope=scope)
        needed = scope_of(scope["method"], scope["path"])
        try:
            guarded = self._keys.any() or not self._is_local
        except StoreUnavailable as damage:
            raise _Refused(error_response(damage)) from damage
        if not guarded:
            self._check_origin(scope["method"], headers)
            return Caller()
        if needed is None or scope["method"] == "OPTIONS":  # a browser asks before it sends the key
            return Caller()
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        key = self._keys.find(secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            message = "this needs a key: send Authorization: Bearer KEY; vetrina keys create NAME makes one"
            found = ErrorResponse(401, "unauthorized", message, "authorization")
            raise _Refused(found, (b"www-authenticate", b'Bearer realm="vetrina"'))
        if needed != ANY and not key.may(needed):  # type: ignore[arg-type]
            message = f"key {key.name!r} has {', '.join(key.scopes)}; this needs scope {needed}"
            raise _Refused(ErrorResponse(403, "forbidden", message, "authorization"))
        rate = key.rate or self._settings.rate_limit
        return Caller(key, self._rates.take(key.number, rate), rate)

    def _check_origin(self, method: str, headers: Headers) -> None:
        """Without keys the service is for this machine alone, and not for whatever page its browser has open.

        A page of elsewhere may send a request here (and, where its name is made to resolve to this machine, read the
        answer); but it cannot hide where it comes from.
        """
        host = _hostname(headers.get("host", ""))
        if host not in self._hosts:
            message = f"without keys only this machine is answered, by its own names, not {host!r}: make a key"
            raise _Refused(ErrorResponse(403, "forbidden", writable(message), "host"))
        origin = headers.get("origin")
        if origin is None or method in SAFE or origin in self._settings.cors_origins:
            return
        if origin.partition("://")[2] != headers.get("host"):
            message = f"a page of {origin!r} may not change anything here: name it in cors_origins"
            raise _Refused(ErrorResponse(403, "forbidden", writable(message), "origin"))

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Reads a body up to its limits of size and time, whether or not its length was announced."""
        if scope["method"] in SAFE:
            return receive
        limit, seconds = self._settings.max_request_bytes, self._settings.timeouts.body
        received, deadline, ended = 0, time.monotonic() + seconds, False

        async def counted() -> Message:
            nonlocal received, ended
            if ended:  # what comes now is that the caller went away, whenever that is
                return await receive()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                # An HTTPException, as FastAPI turns any other that is raised while it reads into its own.
                raise HTTPException(408, f"the body did not come within {seconds:g} seconds: send it faster") from None
            received += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if received > limit:
                raise HTTPException(413, f"the body is larger than {limit} bytes: send less")
            return message

        return counted

    def _busy(self) -> _Refused:
        """The refusal of a request that is shed; the log hears of it now and then, as each line would cost as much."""
        SHED.inc()
        now = time.monotonic()
        if now >= self._tell_again:
            self._tell_again = now + TELL_SECONDS
            log.warning("more comes than can be answered in time: requests are shed, see vetrina_shed_total")
        message = "there is more to do than can be done in time: try again"
        return _Refused(ErrorResponse(503, BUSY, message, ""), (b"retry-after", str(RETRY_SECONDS).encode()))

    def _tell(
        self, scope: Scope, status: int, took: float, caller: Caller, answering: RequestContext, shed: bool
    ) -> None:
        """Count and log what became of a request."""
        route = getattr(scope.get("route"), "path", "other")
        _timer(f"{scope['method']} {route}" if route != "other" else route, status).observe(took)
        slow = took > self._settings.timeouts.answer
        if self._settings.access_log or slow or (status >= 500 and not shed):
            level = logging.WARNING if status >= 500 or slow else logging.INFO
            fields = {
                "request_id": answering.id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "took_ms": round(took * 1000, 3),
                "key": caller.name,
                **({"partial": answering.partial} if answering.partial else {}),
            }
            log.log(level, "request", extra={"fields": fields})


def is_loopback(host: str) -> bool:
    """Whether a service on this address can be reached from this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=256)
def _hostname(host: str) -> str:
    if set(host) & set("@/?#\\"):  # no name and port alone
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # half an IPv6 address
        return ""


@lru_cache(maxsize=4096)
def _timer(operation: str, status: int) -> Histogram:
    return REQUESTS.labels(operation, status)


def _rate_headers(caller: Caller) -> list[tuple[bytes, bytes]]:
    """What is left of a rate: draft-ietf-httpapi-ratelimit-headers-10."""
    assert caller.allowance is not None  # noqa: S101
    quota, wait = most_at_once(caller.rate), -(-caller.allowance.wait // 1)
    headers = [
        (b"ratelimit-policy", f'"key";q={quota};w={BURST_SECONDS:g}'.encode()),
        (b"ratelimit", f'"key";r={caller.allowance.remaining};t={wait:.0f}'.encode()),
    ]
    return headers if caller.allowance.ok else [*headers, (b"retry-after", f"{max(1, wait):.0f}".encode())]


def _too_many(caller: Caller) -> _Refused:
    message = f"key {caller.name!r} may call {caller.rate:g} times a second: wait as Retry-After says"
    return _Refused(ErrorResponse(429, "too_many_requests", message, "authorization"))


def _describe(span: Any, scope: Scope, status: int, answering: RequestContext) -> None:
    route = getattr(scope.get("route"), "path", "other")
    span.update_name(f"{scope['method']} {route}")
    span.set_attributes(
        {
            "http.request.method": scope["method"],
            "http.route": route,
            "http.response.status_code": status,
            "vetrina.request_id": answering.id,
        }
    )


async def _answer(refused: _Refused, send: Send) -> None:
    found = refused.found
    body = orjson.dumps({"error": {"code": found.code, "message": found.message, "field": found.field}})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": found.status, "headers": [*headers, *refused.headers]})
    await send({"type": "http.response.body", "body": body})
