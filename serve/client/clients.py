"""The synchronous and the asynchronous client: connections, retries and timeouts."""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from typing import Any, Generic, Self, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from serve.client.call import Call
from serve.client.errors import Unreachable, Unreadable, error_from_response, retry_after
from serve.client.operations import Operations

MAX_RETRIES = 3  # for calls that are safe to retry
RETRY_STATUSES = {429, 503}
RETRY_ERRORS = (httpx.NetworkError, httpx.RemoteProtocolError)  # not timeouts: a retry would take as long
MAX_BACKOFF = 2.0  # seconds: upper limit of the random wait before the last retry; half of it before each earlier one
MAX_WAIT = 30.0  # seconds; a longer `Retry-After` is an error at once
CONNECT_TIMEOUT = 5.0  # seconds

R = TypeVar("R")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class _BaseClient(Operations, ABC, Generic[Http]):
    """What both clients share: building requests, reading responses, retries.

    Args:
        url: URL of the service, without `/v1`.
        key: API key, sent with each request as `Authorization: Bearer`.
        timeout: seconds without data after which a request fails.
        change_timeout: the same for calls that change data, as the service encodes items or loads releases meanwhile.

    Raises:
        ValueError: the key contains invalid characters.
    """

    _http_class: type[Http]
    _http: Http

    def __init__(
        self, url: str, *, key: str | None = None, timeout: float = 10.0, change_timeout: float = 300.0
    ) -> None:
        self._http = self._http_class(base_url=url, headers=_headers(key))
        self._timeout, self._change_timeout = timeout, change_timeout

    @abstractmethod
    async def _exchange(self, request: httpx.Request) -> httpx.Response: ...

    @abstractmethod
    async def _pause(self, seconds: float) -> None: ...

    async def _send(self, call: Call[R]) -> R:
        """Send a call and return its response; retries where that is safe and may help."""
        request, retries = self._build_request(call), 0 if call.changes else MAX_RETRIES
        while True:
            wait = 0.0
            try:
                response = await self._exchange(request)
            except httpx.RequestError as error:
                if not retries or not isinstance(error, RETRY_ERRORS):
                    base, reason = self._http.base_url, f"{type(error).__name__} {error}".rstrip()
                    raise Unreachable(f"no response from {base.scheme}://{base.netloc.decode()}: {reason}") from error
            else:
                wait = retry_after(response) or 0.0
                if not retries or response.status_code not in RETRY_STATUSES or wait > MAX_WAIT:
                    return _read(response, call.response)
            retries -= 1
            await self._pause(wait + random.uniform(0, MAX_BACKOFF / 2**retries))

    def _build_request(self, call: Call[Any]) -> httpx.Request:
        timeout = self._change_timeout if call.changes else self._timeout
        return self._http.build_request(
            call.method,
            call.path,
            content=None if call.body is None else to_json(call.body),
            headers=None if call.body is None else {"Content-Type": "application/json"},
            params=call.params,
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
        )


class Client(_BaseClient[httpx.Client]):
    """A client whose methods block; threads may share it."""

    _http_class = httpx.Client

    def send(self, call: Call[R]) -> R:
        """Send a call and return its response; raises ClientError."""
        try:
            self._send(call).send(None)
        except StopIteration as done:
            response: R = done.value
            return response
        raise AssertionError("the coroutine never suspends, so its first step is its last")

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        return self._http.send(request)

    async def _pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncClient(_BaseClient[httpx.AsyncClient]):
    """A client whose methods are awaited, in one event loop."""

    _http_class = httpx.AsyncClient

    async def send(self, call: Call[R]) -> R:
        """Send a call and return its response; raises ClientError."""
        return await self._send(call)

    async def _exchange(self, request: httpx.Request) -> httpx.Response:
        return await self._http.send(request)

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()


def _headers(key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not key.isascii() or not key.isprintable() or not key or " " in key:  # the message must not contain the key
        raise ValueError("invalid API key: empty, or contains whitespace, control or non-ASCII characters")
    return {"Authorization": f"Bearer {key}"}


def _read(response: httpx.Response, kind: type[R]) -> R:
    """Return the content of a response; raises the error of an error response."""
    status, path = response.status_code, response.request.url.path
    if status >= 400:
        raise error_from_response(response)
    try:
        return TypeAdapter(kind).validate_json(response.content)
    except ValidationError as error:
        raise Unreadable(f"unexpected response from {path} (status {status})", status) from error
