"""Requests without a key to a keyless store: only from this machine, and not from foreign web pages.

A request is local if the peer of its connection has a loopback address and no proxy forwarded it. Its `Host` does not
prove that, because the caller chooses it; it is checked against DNS rebinding only. A proxy on this machine that adds
none of the FORWARDING_HEADERS cannot be told from a local caller.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import Scope

from serve.core.errors import ErrorResponse

FORWARDING_HEADERS = {b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip", b"cf-connecting-ip"}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
CREATE_KEY = "create an API key with vetrina keys create NAME and send it"


class LocalAccess:
    """Checks requests without a key.

    A page of another origin may send a request to this machine and, if its name resolves to this machine (DNS
    rebinding), read the response; but the browser states the page's name in `Host` and `Origin`.

    Args:
        host: the address on which the service listens.
        cors_origins: origins whose pages may change data.
    """

    def __init__(self, host: str, cors_origins: Sequence[str]) -> None:
        self._listens_locally = is_loopback(host)
        self._hosts = {"localhost", "127.0.0.1", "::1", host}
        self._cors_origins = set(cors_origins)

    def check(self, scope: Scope) -> ErrorResponse | None:
        """Return why a request is refused, None if it is allowed."""
        client = scope.get("client")
        if not self._listens_locally or client is None or not is_loopback(client[0]):
            return _forbidden(f"requests from other machines need an API key: {CREATE_KEY}", "authorization")
        host, origin = "", None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1")
            elif name == b"origin":
                origin = value.decode("latin-1")
            elif name in FORWARDING_HEADERS or name.startswith(b"x-forwarded-"):
                header = name.decode("latin-1")
                message = f"requests that a proxy forwards (header {header}) need an API key: {CREATE_KEY}"
                return _forbidden(message, "authorization")
        hostname = _hostname(host)
        if hostname not in self._hosts:
            message = f"invalid Host {hostname!r}: without an API key, use a name of this machine, as localhost"
            return _forbidden(message, "host")
        if origin is None or scope["method"] in SAFE_METHODS or origin in self._cors_origins:
            return None
        if origin.partition("://")[2] != host:
            return _forbidden(f"pages of {origin!r} may not change data: add the origin to cors_origins", "origin")
        return None


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _forbidden(message: str, field: str) -> ErrorResponse:
    return ErrorResponse(403, "forbidden", message, field)


@lru_cache(maxsize=256)
def _hostname(host: str) -> str:
    if set(host) & set("@/?#\\"):  # more than a name and a port
        return ""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # an incomplete IPv6 address
        return ""
