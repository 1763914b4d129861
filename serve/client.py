"""A client of the HTTP API, for programs that wait and for those that do not. It loads neither models nor indexes.

    with Client("http://127.0.0.1:8000", key=key) as shop:
        found = shop.search(text="red sneaker", filter={"price": {"lte": 50}}, k=5)

    async with AsyncClient("http://127.0.0.1:8000", key=key) as shop:
        found = await shop.search(text="red sneaker", filter={"price": {"lte": 50}}, k=5)

What is asked are plain values under the names of the API, where None leaves the service its own default; what comes
back are the models of `serve.http`. Each operation is described once, in `Operations`, and each kind of client makes of
it a method that sends it.

ClientError
├── Refused          the service says no (4xx), with the code, message and field that it gives
│   ├── NotAllowed   without a key, or with one that may not do this (401, 403)
│   ├── NotFound     an item, a release or an operation that is not there (404)
│   └── TooMany      more often than the key may (429); `retry_after` says when to come again
├── Unavailable      the service is there but does not answer (5xx); `retry_after` as above, if it says so
├── Unreachable      nobody is there, or does not answer in time
└── Unreadable       what came is no answer of this API
"""

import asyncio
import random
import time
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import wraps
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, Self, TypeVar, overload
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from serve.core.fields import FieldName
from serve.schemas.campaigns import AudienceResponse, CopyResponse
from serve.schemas.common import ErrorBody, ErrorEnvelope
from serve.schemas.events import EventsResponse
from serve.schemas.items import ChangesResponse
from serve.schemas.recommend import CandidatesResponse, RankResponse
from serve.schemas.releases import ReleasesResponse
from serve.schemas.search import ItemResponse, ItemsResponse, SearchResponse, SuggestResponse
from serve.schemas.users import ErasureResponse, PreferencesResponse, UserResponse

MAX_REPEATS = 3  # of what is safe to repeat
BUSY = {429, 503}  # what is worth another try
CUT = (httpx.NetworkError, httpx.RemoteProtocolError)  # so is this; who does not answer in time is not asked again
LONGEST_BACKOFF = 2.0  # seconds; a random part is waited before the last try, of half as much before each earlier one
LONGEST_WAIT = 30.0  # seconds; a service that says to come later than that is not waited for
CONNECT_TIMEOUT = 5.0  # seconds, at the most

P = ParamSpec("P")
R = TypeVar("R")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Json = Mapping[str, Any]
Photo = bytes | PathLike[str]


class ClientError(Exception):
    """Root of what a client raises. `status` is 0 where nobody answered; the others are what an answer said, if it did.

    `field` names what is wrong in the request, `code` is for programs, `retry_after` is in seconds.
    """

    def __init__(
        self, message: str, status: int = 0, code: str = "", field: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message, status, code, field, retry_after)
        self.message, self.status, self.code, self.field, self.retry_after = message, status, code, field, retry_after

    def __str__(self) -> str:
        return self.message


class Refused(ClientError):
    """The service says no: the request is to be another."""


class NotAllowed(Refused):
    """The key is missing, unknown, or not one that may do this."""


class NotFound(Refused):
    """An item, a release or an operation is not there."""


class TooMany(Refused):
    """Requests come too often."""


class Unavailable(ClientError):
    """The service does not answer now, or has a bug."""


class Unreachable(ClientError):
    """Nobody is there, the connection broke, or no answer came in time; a change may have been made all the same."""


class Unreadable(ClientError):
    """What came is no answer of this API: that of another service, or of another version."""


REFUSALS: Mapping[int, type[ClientError]] = {401: NotAllowed, 403: NotAllowed, 404: NotFound, 429: TooMany}


@dataclass(frozen=True)
class Call(Generic[R]):
    """A request, and what its answer is read as; one that `changes` something is sent once only and waited for longer.

    `body` is sent as JSON, `params` after the `?`.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    answer: type[R]
    body: Json | None = None
    params: Json | None = None
    changes: bool = False


class Operation(Generic[P, R]):
    """Makes of a function that describes a call a method that sends it: at once on Client, awaited on AsyncClient."""

    def __init__(self, describe: Callable[P, Call[R]]) -> None:
        self._describe = describe

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: "Client", owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: "AsyncClient", owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, client: "Client | AsyncClient | None", owner: type) -> Any:
        if client is None:
            return self

        @wraps(self._describe)
        def send(*args: P.args, **kwargs: P.kwargs) -> Any:
            return client.send(self._describe(*args, **kwargs))

        return send


class Operations:
    """What can be asked of the service. A photo is the bytes of a file, or its path."""

    @Operation
    @staticmethod
    def search(
        *,
        text: str | None = None,
        image: Photo | None = None,
        like: Sequence[str] | None = None,
        unlike: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        filter: Json | None = None,
        exclude: Sequence[str] | None = None,
        spaces: Sequence[str] | None = None,
        understand: bool | None = None,
        facets: Sequence[str] | None = None,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        personal: float | None = None,
        explain: bool | None = None,
        k: int | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[SearchResponse]:
        """Items by words, a photo, items to look like, or all of them together."""
        return Call("POST", "/v1/search", SearchResponse, _given({**locals(), "image": _encoded(image)}))

    @Operation
    @staticmethod
    def similar(
        item_ids: str | Sequence[str],
        *,
        space: str | None = None,
        filter: Json | None = None,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        personal: float | None = None,
        explain: bool | None = None,
        k: int | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[ItemsResponse]:
        """Items like one, or like several together."""
        item_ids = [item_ids] if isinstance(item_ids, str) else item_ids
        return Call("POST", "/v1/similar", ItemsResponse, _given(locals()))

    @Operation
    @staticmethod
    def related(
        item_id: str,
        *,
        relation: str | None = None,
        kind: Literal["complement", "substitute", "related"] | None = None,
        filter: Json | None = None,
        k: int | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[ItemsResponse]:
        """What goes with an item, by the shop's own relations."""
        params = _given({**locals(), "filter": None if filter is None else to_json(filter).decode()}, "item_id")
        return Call("GET", f"/v1/items/{_part(item_id)}/related", ItemsResponse, params=params)

    @Operation
    @staticmethod
    def item(item_id: str) -> Call[ItemResponse]:
        """All that the catalogue says of an item."""
        return Call("GET", f"/v1/items/{_part(item_id)}", ItemResponse)

    @Operation
    @staticmethod
    def suggest(q: str, *, k: int | None = None) -> Call[SuggestResponse]:
        """What begun words may become."""
        return Call("GET", "/v1/suggest", SuggestResponse, params=_given(locals()))

    @Operation
    @staticmethod
    def recommend(
        *,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        filter: Json | None = None,
        exclude: Sequence[str] | None = None,
        from_: Sequence[str] | None = None,
        to: Sequence[str] | None = None,
        explain: bool | None = None,
        diversity: float | None = None,
        explore: bool | None = None,
        log: bool | None = None,
        k: int | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[ItemsResponse]:
        """What a shopper will want next."""
        return Call("POST", "/v1/recommend", ItemsResponse, _given(locals()))

    @Operation
    @staticmethod
    def candidates(
        *,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        filter: Json | None = None,
        exclude: Sequence[str] | None = None,
        from_: Sequence[str] | None = None,
        to: Sequence[str] | None = None,
        k: int | None = None,
    ) -> Call[CandidatesResponse]:
        """Up to thousands of items for a shopper, with what each source says of each."""
        return Call("POST", "/v1/candidates", CandidatesResponse, _given(locals()))

    @Operation
    @staticmethod
    def rank(
        item_ids: Sequence[str],
        *,
        user_id: str | None = None,
        history: Sequence[Json] | None = None,
        explain: bool | None = None,
        fields: Sequence[FieldName] | None = None,
    ) -> Call[RankResponse]:
        """Items from elsewhere, in the order that suits a shopper."""
        return Call("POST", "/v1/rank", RankResponse, _given(locals()))

    # The models of these two answers come with all that makes them, torch too, so they are read as they are.

    @Operation
    @staticmethod
    def audience(
        *,
        item_id: str | None = None,
        text: str | None = None,
        image: Photo | None = None,
        size: int | None = None,
        campaign: str | None = None,
        cap: Mapping[str, float] | None = None,
        holdout: float | None = None,
        again: bool | None = None,
        record: bool = False,
    ) -> Call[AudienceResponse]:
        """The shoppers most likely to want an item, or what a creative shows."""
        body = _given({**locals(), "image": _encoded(image)})
        return Call("POST", "/v1/audience", AudienceResponse, body, changes=record)

    @Operation
    @staticmethod
    def copy(
        item_id: str,
        *,
        style: Literal["title", "reason", "ad"] | None = None,
        language: Literal["en", "de", "fr", "es", "it"] | None = None,
        segment: str | None = None,
    ) -> Call[CopyResponse]:
        """A short text for an item."""
        return Call("POST", f"/v1/items/{_part(item_id)}/copy", CopyResponse, _given(locals(), "item_id"))

    @Operation
    @staticmethod
    def send_events(events: Sequence[Json]) -> Call[EventsResponse]:
        """What shoppers did. An event without `event_id` gets one, so that sending it again counts it once."""
        known = [event if event.get("event_id") else {**event, "event_id": uuid4().hex} for event in events]
        return Call("POST", "/v1/events", EventsResponse, {"events": known})

    @Operation
    @staticmethod
    def user(user_id: str) -> Call[UserResponse]:
        """What is known of a shopper, preferences too."""
        return Call("GET", f"/v1/users/{_part(user_id)}", UserResponse)

    @Operation
    @staticmethod
    def preferences(
        user_id: str,
        *,
        personal: bool | None = None,
        marketing: bool | None = None,
        explore: bool | None = None,
        blocked_items: Sequence[str] | None = None,
        blocked_categories: Sequence[str] | None = None,
        blocked_brands: Sequence[str] | None = None,
    ) -> Call[PreferencesResponse]:
        """Set what a shopper wants of answers, in place of all that was set before."""
        body = _given(locals(), "user_id")
        return Call("PUT", f"/v1/users/{_part(user_id)}/preferences", PreferencesResponse, body, changes=True)

    @Operation
    @staticmethod
    def forget(user_id: str) -> Call[ErasureResponse]:
        """Remove all that is kept of a shopper."""
        return Call("DELETE", f"/v1/users/{_part(user_id)}", ErasureResponse, changes=True)

    @Operation
    @staticmethod
    def put_items(items: Sequence[Json]) -> Call[ChangesResponse]:
        """Add items or replace them whole."""
        return Call("PUT", "/v1/items", ChangesResponse, _given(locals()), changes=True)

    @Operation
    @staticmethod
    def patch_items(items: Sequence[Json]) -> Call[ChangesResponse]:
        """Change prices, availability and what else no encoder reads."""
        return Call("PATCH", "/v1/items", ChangesResponse, _given(locals()), changes=True)

    @Operation
    @staticmethod
    def delete_items(item_ids: Sequence[str]) -> Call[ChangesResponse]:
        """Take items away."""
        return Call("DELETE", "/v1/items", ChangesResponse, _given(locals()), changes=True)

    @Operation
    @staticmethod
    def releases() -> Call[ReleasesResponse]:
        """The releases on disk, and which one answers."""
        return Call("GET", "/v1/releases", ReleasesResponse)

    @Operation
    @staticmethod
    def activate(release: str) -> Call[ReleasesResponse]:
        """Let another release answer."""
        return Call("POST", f"/v1/releases/{_part(release)}/activate", ReleasesResponse, changes=True)

    @Operation
    @staticmethod
    def ready() -> Call[dict[str, str]]:
        """The release that answers; Unavailable where none does yet."""
        return Call("GET", "/readyz", dict[str, str])


class _Sender(Operations, ABC, Generic[Http]):
    """What both kinds of client are: connections, and how a call is sent over them.

    `url` is where the service is, before `/v1`; `key` goes with each request as `Authorization: Bearer`. `timeout` is
    for how many seconds the service may be silent; `change_timeout` is that for calls that change something, as items
    are encoded and releases loaded meanwhile. Raises ValueError for a key that cannot be one.
    """

    _kind: type[Http]
    _http: Http

    def __init__(
        self, url: str, *, key: str | None = None, timeout: float = 10.0, change_timeout: float = 300.0
    ) -> None:
        self._http = self._kind(base_url=url, headers=_headers(key))
        self._timeout, self._change_timeout = timeout, change_timeout

    @abstractmethod
    async def _exchange(self, request: httpx.Request) -> httpx.Response: ...

    @abstractmethod
    async def _pause(self, seconds: float) -> None: ...

    async def _answer(self, call: Call[R]) -> R:
        """The answer of a call, tried again where that is safe and may help."""
        request, left = self._request(call), 0 if call.changes else MAX_REPEATS
        while True:
            wait = 0.0
            try:
                response = await self._exchange(request)
            except httpx.RequestError as error:
                if not left or not isinstance(error, CUT):
                    base, what = self._http.base_url, f"{type(error).__name__} {error}".rstrip()
                    raise Unreachable(f"{base.scheme}://{base.netloc.decode()} does not answer: {what}") from error
            else:
                wait = _retry_after(response) or 0.0
                if not left or response.status_code not in BUSY or wait > LONGEST_WAIT:
                    return _read(response, call.answer)
            left -= 1
            await self._pause(wait + random.uniform(0, LONGEST_BACKOFF / 2**left))

    def _request(self, call: Call[Any]) -> httpx.Request:
        timeout = self._change_timeout if call.changes else self._timeout
        return self._http.build_request(
            call.method,
            call.path,
            content=None if call.body is None else to_json(call.body),
            headers=None if call.body is None else {"Content-Type": "application/json"},
            params=call.params,
            timeout=httpx.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT)),
        )


class Client(_Sender[httpx.Client]):
    """Sends and waits; may be shared by threads."""

    _kind = httpx.Client

    def send(self, call: Call[R]) -> R:
        """The answer of a call; raises ClientError."""
        try:
            self._answer(call).send(None)
        except StopIteration as done:
            answer: R = done.value
            return answer
        raise AssertionError("what follows gives way to nobody, so the first step is the last")

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


class AsyncClient(_Sender[httpx.AsyncClient]):
    """Sends, to be awaited in one event loop."""

    _kind = httpx.AsyncClient

    async def send(self, call: Call[R]) -> R:
        """The answer of a call; raises ClientError."""
        return await self._answer(call)

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


def _given(values: Json, *but: str) -> dict[str, Any]:
    """What was given, under the API's names: `from_` is `from`, which is none for Python."""
    return {name.rstrip("_"): value for name, value in values.items() if value is not None and name not in but}


def _encoded(image: Photo | None) -> str | None:
    if image is None:
        return None
    return b64encode(image if isinstance(image, bytes) else Path(image).read_bytes()).decode()


def _part(text: str) -> str:
    """Text as one part of a path; dots too, as `..` would lead out of it."""
    return quote(text, safe="").replace(".", "%2E")


def _headers(key: str | None) -> dict[str, str]:
    if key is None:
        return {}
    if not key.isascii() or not key.isprintable() or not key or " " in key:  # the key itself is not to be told
        raise ValueError("key is none: it has characters of no key, a line break at its end perhaps")
    return {"Authorization": f"Bearer {key}"}


def _retry_after(response: httpx.Response) -> float | None:
    """For how many seconds the service wants to be left alone, if it says so."""
    told = response.headers.get("Retry-After", "")
    if told.isdecimal():
        return float(told)
    with suppress(ValueError):
        at = parsedate_to_datetime(told)
        return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    return None


def _read(response: httpx.Response, answer: type[R]) -> R:
    """What an answer says; raises what it refuses with."""
    status, path = response.status_code, response.request.url.path
    if status >= 400:
        raise _refusal(response)
    try:
        return TypeAdapter(answer).validate_json(response.content)
    except ValidationError as error:
        raise Unreadable(f"{path} was answered with something else than expected (status {status})", status) from error


def _refusal(response: httpx.Response) -> ClientError:
    status = response.status_code
    try:
        told = ErrorEnvelope.model_validate_json(response.content).error
    except ValidationError:  # of a proxy, say
        told = ErrorBody(code="", message=f"answered with {status} {response.reason_phrase}", field="")
    kind = Unavailable if status >= 500 else REFUSALS.get(status, Refused)
    return kind(told.message, status, told.code, told.field, _retry_after(response))
