"""The app: middleware, error answers, start and stop. Routes are in `routes`."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from typing import Any
from uuid import uuid4

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import EXPECTED, Complaint, complaint, writable
from serve.http import campaigns
from serve.http.contract import ErrorAnswer
from serve.http.routes import SEARCH_SCHEMAS, router
from serve.live import Live
from serve.settings import Settings

log = logging.getLogger("vetrina")

SERVED = "VETRINA_SERVED"  # the settings of the service as JSON, for its worker processes

DESCRIPTION = """Similar items, and search by words, photo or example, from the release that is live.

Ids go in paths percent-encoded (`/v1/items/a%2Fb/similar`) or in bodies. Every refusal is
`{"error": {"code", "message", "field"}}`: 4xx for the caller's mistakes, 5xx for ours.
"""


def create_app(settings: Settings) -> FastAPI:
    """The service over `settings.store`; the release is loaded at start and followed while it runs."""
    live = Live(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        live.start()
        yield
        live.stop()

    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, "description": text}
        for status, text in (
            (404, "no such thing"),
            (413, "too large"),
            (422, "the caller's mistake"),
            (503, "not ready"),
        )
    }
    app = Service(
        title="Vetrina",
        version=version("vetrina"),
        description=DESCRIPTION,
        lifespan=lifespan,
        responses=errors,
        redirect_slashes=False,  # a redirect is no answer in the error form
    )
    app.state.live = live
    app.state.settings = settings
    app.include_router(router)
    app.include_router(campaigns.router)
    app.add_middleware(EncodedPaths)
    app.add_middleware(BodyLimit, limit=settings.max_request_bytes)
    for kind in EXPECTED:
        app.add_exception_handler(kind, _on_expected)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    return app


def served_app() -> FastAPI:
    """The service of one worker process; its settings are in the environment, and its share of the cores."""
    settings = Settings(**orjson.loads(os.environ[SERVED]))
    if not settings.threads:
        cores = len(os.sched_getaffinity(0))
        settings = settings.model_copy(update={"threads": max(1, cores // settings.workers)})
    return create_app(settings)


class Service(FastAPI):
    """The search request is read by hand, from JSON or a form, so FastAPI does not see its schema."""

    def openapi(self) -> dict[str, Any]:
        described = super().openapi()
        described["components"]["schemas"].update(SEARCH_SCHEMAS)
        return described


class EncodedPaths:
    """Routes on the path as it was sent, so that an encoded slash in an id is not a slash of the path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope.get("raw_path") and b"%" in scope["raw_path"]:
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await self._app(scope, receive, send)


class BodyLimit:
    """Refuses bodies over `limit` bytes while they arrive, whether or not their length was announced."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._app(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                # An HTTPException, as FastAPI turns any other that is raised while it reads into its own.
                raise HTTPException(413, f"the body is larger than {self._limit} bytes: send less")
            return message

        await self._app(scope, counted, send)


def _answer(found: Complaint) -> Response:
    body = {"error": {"code": found.code, "message": writable(found.message), "field": writable(found.field)}}
    return Response(orjson.dumps(body), found.status, media_type="application/json")


async def _on_expected(request: Request, error: Exception) -> Response:
    return _answer(complaint(error))


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    first = error.errors()[0]
    place = [] if first["type"] == "json_invalid" else [str(part) for part in first["loc"][1:]]
    given = repr(first.get("input"))
    shown = given if len(given) <= 100 else f"{given[:100]}…"
    return _answer(Complaint(422, "invalid", f"{first['msg']} (got {shown})", ".".join(place) or "body"))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    if error.status_code in {400, 413}:
        found = Complaint(error.status_code, code, str(error.detail), "body")
    else:
        message = f"{error.detail}: {request.method} {request.url.path}; /docs lists what there is"
        found = Complaint(error.status_code, code, message, "path")
    response = _answer(found)
    response.headers.update(error.headers or {})
    return response


async def _on_bug(request: Request, error: Exception) -> Response:
    reference = uuid4().hex
    log.exception("bug %s at %s %s", reference, request.method, request.url.path)
    response = _answer(Complaint(500, "internal", f"a bug of ours, logged as {reference}", ""))
    response.headers["connection"] = "close"  # the server will; a client that keeps connections has to know
    return response
