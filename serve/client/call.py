"""The description of a call, and the descriptor that makes a client method of it."""

from base64 import b64encode
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import wraps
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, Self, TypeVar, overload
from urllib.parse import quote

if TYPE_CHECKING:
    from serve.client.clients import AsyncClient, Client

P = ParamSpec("P")
R = TypeVar("R")
Json = Mapping[str, Any]
Photo = bytes | PathLike[str]


@dataclass(frozen=True)
class Call(Generic[R]):
    """A request, and the type of its response.

    Args:
        method: HTTP method.
        path: path of the request.
        response: type of the response.
        body: sent as JSON.
        params: sent in the query string.
        changes: whether the call changes data; it is then never retried, and has the longer timeout.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    response: type[R]
    body: Json | None = None
    params: Json | None = None
    changes: bool = False


class Operation(Generic[P, R]):
    """Turns a function that describes a call into a method that sends it: `Client` returns, `AsyncClient` awaits."""

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


def arguments(values: Json, *excluded: str) -> dict[str, Any]:
    """Return the arguments that are not None, with the API's names: `from_` is `from`, a keyword of Python."""
    return {name.rstrip("_"): value for name, value in values.items() if value is not None and name not in excluded}


def encode_photo(image: Photo | None) -> str | None:
    """Return a photo in base64."""
    if image is None:
        return None
    return b64encode(image if isinstance(image, bytes) else Path(image).read_bytes()).decode()


def path_segment(text: str) -> str:
    """Encode text as one segment of a path, dots included, because `..` would leave the path."""
    return quote(text, safe="").replace(".", "%2E")
