"""API keys and their scopes: who may send a request."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.core.errors import ErrorResponse, StoreUnavailable, error_response
from serve.http.middleware.local_access import LocalAccess
from serve.http.middleware.refusals import refuse
from serve.http.permissions import ANY_KEY, request_path, required_scope
from serve.security.api_keys import HOW_TO_CHOOSE, ApiKey, ApiKeys

CHALLENGE = (b"www-authenticate", b'Bearer realm="vetrina"')


@dataclass(frozen=True)
class Caller:
    """The sender of a request: its key, None on open paths and in keyless stores."""

    key: ApiKey | None = None


ANONYMOUS = Caller()


class Authentication:
    """Refuses requests without a valid key and scope; others find their `Caller` in `request.state.caller`.

    Args:
        app: the next layer.
        keys: the keys of the store.
        host: the address on which the service listens.
        cors_origins: origins whose pages may change data in a keyless store.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, host: str, cors_origins: Sequence[str]) -> None:
        self._app, self._keys = app, keys
        self._local_access = LocalAccess(host, cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        caller = self._authenticate(scope)
        if isinstance(caller, ErrorResponse):
            await refuse(send, caller, *([CHALLENGE] if caller.status == 401 else []))
            return
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _authenticate(self, scope: Scope) -> Caller | ErrorResponse:
        needed = required_scope(scope["method"], request_path(scope))
        if needed is None or scope["method"] == "OPTIONS":  # a browser sends OPTIONS without the key
            return ANONYMOUS
        try:
            if self._keys.auth == "none":
                return self._local_access.check(scope) or ANONYMOUS
            key = self._keys.find(_bearer_token(scope))
            if key is None:
                return self._unauthorized()
        except StoreUnavailable as damage:
            return error_response(damage)
        if needed != ANY_KEY and not key.allows(needed):  # type: ignore[arg-type]
            message = f"key {key.name!r} has scope {', '.join(key.scopes)}: this operation needs scope {needed}"
            return ErrorResponse(403, "forbidden", message, "authorization")
        return Caller(key)

    def _unauthorized(self) -> ErrorResponse:
        if self._keys.is_empty:
            message = f"this store has no API key: {HOW_TO_CHOOSE}"
        else:
            message = "missing or unknown API key: send Authorization: Bearer KEY, with a key of vetrina keys create"
        return ErrorResponse(401, "unauthorized", message, "authorization")


def _bearer_token(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, secret = value.decode("latin-1").partition(" ")
            return secret.strip() if scheme.lower() == "bearer" else ""
    return ""
