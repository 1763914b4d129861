"""The app: composition of middleware and routes, error responses, start and stop."""

import logging
import logging.config
import os
import sys
from collections.abc import AsyncIterator, Callable
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
from starlette.types import ASGIApp

from serve.core.errors import EXPECTED, ErrorResponse, error_response, escape_surrogates
from serve.core.request_context import request_id
from serve.core.settings import RATES_VARIABLE, SETTINGS_VARIABLE, Settings
from serve.http import static_files
from serve.http.logging_config import log_config
from serve.http.middleware.concurrency_limiter import ConcurrencyLimiter
from serve.http.middleware.head_requests import HeadRequests
from serve.http.middleware.request_path import RequestPath
from serve.http.middleware.stack import add_middleware
from serve.http.openapi import DESCRIPTION, complete_document
from serve.http.routes import campaigns, events, health, items, operations, recommend, releases, search, users
from serve.http.routes.campaigns import CampaignService
from serve.http.tracing import start_tracing
from serve.live.runtime import ServiceRuntime
from serve.security.api_keys import ApiKeys

_log = logging.getLogger("vetrina")

RETRY_SECONDS = 5  # `Retry-After` while there is no active release, or no database
SWITCH_SECONDS = 0.001  # the default lets a search in a thread delay the event loop for five times as long


def create_app(settings: Settings) -> FastAPI:
    """Create the app over `settings.store`; it loads the current release at start and follows the store."""
    keys = ApiKeys(settings.store)  # first: it recognizes a store of version 0.1, which others then write to
    live = ServiceRuntime(settings)
    limiter = ConcurrencyLimiter(settings.shed_above_ms / 1000)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        keys.log_warnings()
        live.start()
        limiter.start()
        yield
        limiter.stop()
        live.stop()

    def wrap(app: ASGIApp) -> ASGIApp:
        app = add_middleware(app, settings, keys, limiter, _shared_rates())
        app = HeadRequests(RequestPath(app, settings.root_path))
        return _allow_origins(app, settings) if settings.cors_origins else app

    app = Service(
        wrap,
        settings.root_path,
        title="Vetrina",
        version=version("vetrina"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect does not have the form of an error
        docs_url=None,  # FastAPI's own page loads scripts from other hosts
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # see serve.http.tracing
    )
    app.state.live, app.state.settings, app.state.campaigns = live, settings, CampaignService(settings, live.users)
    for module in (search, recommend, items, events, users, campaigns, releases, operations, health, static_files):
        app.include_router(module.router)
    app.mount("/console", static_files.CONSOLE)
    for error in EXPECTED:
        app.add_exception_handler(error, _on_expected)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_internal)
    return app


def served_app() -> FastAPI:
    """Create the app of one worker process, from the settings in its environment."""
    settings = Settings(**orjson.loads(os.environ[SETTINGS_VARIABLE]))
    if settings.otel:
        start_tracing()
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.config.dictConfig(log_config(settings.log_format))
    if not settings.threads:
        cores = len(os.sched_getaffinity(0))
        settings = settings.model_copy(update={"threads": max(1, cores // settings.workers)})
    return create_app(settings)


def _shared_rates() -> Path | None:
    file = os.environ.get(RATES_VARIABLE)
    return Path(file) if file else None


def _allow_origins(app: ASGIApp, settings: Settings) -> ASGIApp:
    return CORSMiddleware(
        app,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=settings.cors_headers,
        expose_headers=["ratelimit", "ratelimit-policy", "retry-after", "x-request-id"],
    )


class Service(FastAPI):
    """FastAPI with middleware around its own error handling, and a completed OpenAPI document.

    Args:
        wrap: wraps the app in the middleware.
        prefix: path prefix at the proxy, for the document. It is not FastAPI's `root_path`, because `RequestPath`
            removes the prefix before routing.
        options: options of FastAPI.
    """

    def __init__(self, wrap: Callable[[ASGIApp], ASGIApp], prefix: str, **options: Any) -> None:
        super().__init__(**options)
        self._wrap, self._prefix = wrap, prefix

    def build_middleware_stack(self) -> ASGIApp:
        return self._wrap(super().build_middleware_stack())

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = complete_document(super().openapi(), self._prefix)
        return self.openapi_schema


def _respond(error: ErrorResponse) -> Response:
    message, field = escape_surrogates(error.message), escape_surrogates(error.field)
    body = {"error": {"code": error.code, "message": message, "field": field}}
    headers = {"retry-after": str(RETRY_SECONDS)} if error.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return Response(orjson.dumps(body), error.status, headers, media_type="application/json")


async def _on_expected(request: Request, error: Exception) -> Response:
    return _respond(error_response(error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    path = [] if first["type"] == "json_invalid" else [str(part) for part in first["loc"][1:]]
    value = repr(first.get("input"))
    shown = value if len(value) <= 100 else f"{value[:100]}…"
    return _respond(ErrorResponse(422, "invalid", f"{first['msg']} (got {shown})", ".".join(path) or "body"))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    if error.status_code in {400, 408, 413}:
        body = ErrorResponse(error.status_code, code, str(error.detail), "body")
    else:
        message = f"{error.detail}: {request.method} {request.url.path}; /docs lists all operations"
        body = ErrorResponse(error.status_code, code, message, "path")
    response = _respond(body)
    response.headers.update(error.headers or {})
    return response


async def _on_internal(request: Request, error: Exception) -> Response:
    reference, route = request_id(), getattr(request.scope.get("route"), "path", "other")
    _log.exception("internal error %s at %s %s", reference, request.method, route)
    response = _respond(ErrorResponse(500, "internal", f"internal error, reference {reference}", ""))
    response.headers["connection"] = "close"  # the server closes it; a client with a connection pool must know
    return response
