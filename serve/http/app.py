"""The app: middleware, error answers, start and stop. Routes are in `routes`."""

import logging
import logging.config
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.core.errors import EXPECTED, ErrorResponse, error_response, writable
from serve.core.request_context import request_id
from serve.core.settings import RATES, SERVED, Settings
from serve.http import static_files
from serve.http.logging_config import log_config
from serve.http.middleware.gateway import Gateway
from serve.http.middleware.load_shedding import LoadShedder
from serve.http.openapi import described
from serve.http.routes import admin, campaigns, events, health, items, recommend, search, users
from serve.http.tracing import start_tracing
from serve.live.runtime import ServiceRuntime
from serve.schemas.common import ErrorEnvelope
from serve.security.api_keys import ApiKeys

log = logging.getLogger("vetrina")

RETRY_SECONDS = 5  # until a release may be there, or a database

DESCRIPTION = """Similar items, and search by words, photo or example, from the release that is live.

Ids go in paths percent-encoded (`/v1/items/a%2Fb/similar`) or in bodies. Every refusal is
`{"error": {"code", "message", "field"}}`: 4xx for the caller's mistakes, 5xx for ours.
"""


def create_app(settings: Settings) -> FastAPI:
    """The service over `settings.store`; the release is loaded at start and followed while it runs."""
    live, keys, load = ServiceRuntime(settings), ApiKeys(settings.store), LoadShedder(settings.shed_above_ms / 1000)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        live.start()
        load.start()
        yield
        load.stop()
        live.stop()

    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorEnvelope, "description": text}
        for status, text in (
            (400, "no JSON, or no form"),
            (401, "no key, or one that is not known"),
            (403, "a key without the scope"),
            (404, "no such thing"),
            (408, "too slow"),
            (413, "too large"),
            (422, "the caller's mistake"),
            (429, "too often: see Retry-After"),
            (503, "not ready, or more to do than can be done in time: see Retry-After"),
        )
    }
    app = Service(
        title="Vetrina",
        version=version("vetrina"),
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=errors,
        redirect_slashes=False,  # a redirect is no answer in the error form
        docs_url=None,  # FastAPI's own page takes its scripts from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # see serve.http.tracing
    )
    app.fronted_by(lambda inner: Gateway(inner, settings, keys, load, _shared_rates()), settings.cors_origins)
    app.state.live = live
    app.state.settings = settings
    for each in (search, recommend, items, events, users, campaigns, admin, health, static_files):
        app.include_router(each.router)
    app.mount("/console", static_files.CONSOLE)
    for kind in EXPECTED:
        app.add_exception_handler(kind, _on_expected)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    return app


def served_app() -> FastAPI:
    """The service of one worker process; its settings are in the environment, and its share of the cores."""
    settings = Settings(**orjson.loads(os.environ[SERVED]))
    if settings.otel:
        start_tracing()
    sys.setswitchinterval(
        0.001
    )  # seconds: else a search in a thread may keep the event loop waiting five times as long
    logging.config.dictConfig(log_config(settings.log_format))
    if not settings.threads:
        cores = len(os.sched_getaffinity(0))
        settings = settings.model_copy(update={"threads": max(1, cores // settings.workers)})
    return create_app(settings)


def _shared_rates() -> Path | None:
    file = os.environ.get(RATES)
    return Path(file) if file else None


class Service(FastAPI):
    """FastAPI behind a front that also sees what FastAPI answers where it breaks, and with a fuller description."""

    def fronted_by(self, front: Callable[[ASGIApp], ASGIApp], cors_origins: Sequence[str]) -> None:
        self._front, self._cors_origins = front, cors_origins

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = EncodedPaths(self._front(super().build_middleware_stack()))
        if self._cors_origins:
            app = CORSMiddleware(
                app,
                allow_origins=self._cors_origins,
                allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
                allow_headers=["authorization", "content-type"],
                expose_headers=["ratelimit", "ratelimit-policy", "retry-after", "x-request-id"],
            )
        return app

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = described(super().openapi())
        return self.openapi_schema


class EncodedPaths:
    """Routes on the path as it was sent, so that an encoded slash in an id is not a slash of the path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("raw_path") and b"%" in scope["raw_path"]:
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._app(scope, receive, send)


def _answer(found: ErrorResponse) -> Response:
    body = {"error": {"code": found.code, "message": writable(found.message), "field": writable(found.field)}}
    headers = {"retry-after": str(RETRY_SECONDS)} if found.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return Response(orjson.dumps(body), found.status, headers, media_type="application/json")


async def _on_expected(request: Request, error: Exception) -> Response:
    return _answer(error_response(error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    place = [] if first["type"] == "json_invalid" else [str(part) for part in first["loc"][1:]]
    given = repr(first.get("input"))
    shown = given if len(given) <= 100 else f"{given[:100]}…"
    return _answer(ErrorResponse(422, "invalid", f"{first['msg']} (got {shown})", ".".join(place) or "body"))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    if error.status_code in {400, 408, 413}:
        found = ErrorResponse(error.status_code, code, str(error.detail), "body")
    else:
        message = f"{error.detail}: {request.method} {request.url.path}; /docs lists what there is"
        found = ErrorResponse(error.status_code, code, message, "path")
    response = _answer(found)
    response.headers.update(error.headers or {})
    return response


async def _on_bug(request: Request, error: Exception) -> Response:
    reference, route = request_id(), getattr(request.scope.get("route"), "path", "other")
    log.exception("bug %s at %s %s", reference, request.method, route)
    response = _answer(ErrorResponse(500, "internal", f"a bug of ours, logged as {reference}", ""))
    response.headers["connection"] = "close"  # the server will; a client that keeps connections has to know
    return response
