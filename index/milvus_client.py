"""Connect to Milvus: one client for each URI in a process, with errors that name the URI and the collection."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from threading import Lock
from typing import Any

from index.errors import IndexDamaged, IndexMissing

REQUEST_S, BUILD_S = 20.0, 3_600.0  # timeouts of a request, and of building an index
KEEPALIVE_MS = 600_000  # between pings: gRPC servers, also milvus-lite, disconnect a client that pings every 5 minutes
TOKEN = "VETRINA_MILVUS_TOKEN"  # noqa: S105 - the variable with user:password or an API key, which no file contains
NOT_REACHED, NOT_FOUND = 2, 100  # error codes

_clients: dict[str, Any] = {}
_clients_lock = Lock()


@contextmanager
def connect(uri: str, collection: str) -> Iterator[Any]:
    """Yield the client of a URI; its errors become VectorIndexErrors that name the URI and the collection."""
    client = _client(uri)
    try:
        yield client
    except (import_pymilvus().MilvusException, import_module("grpc").RpcError) as error:
        code, name = getattr(error, "code", None), f"{collection!r} at {redact_password(uri)}"
        if code == NOT_FOUND:
            raise IndexMissing(f"there is no collection {name} ({_reason(error)})", collection) from error
        if code == NOT_REACHED or not isinstance(code, int):  # other integers are errors that Milvus reports
            raise IndexMissing(f"no response for collection {name} ({_reason(error)})", collection) from error
        raise IndexDamaged(f"collection {name} failed ({_reason(error)})", collection) from error


def is_local(uri: str) -> bool:
    """Whether a URI is a file of milvus-lite."""
    return uri.endswith(".db")


def import_pymilvus() -> Any:
    """Import pymilvus; raises IndexMissing if it is not installed."""
    try:
        return import_module("pymilvus")
    except ImportError as error:
        raise IndexMissing("pymilvus is not installed: pip install 'vetrina[milvus]'", "pymilvus") from error


def redact_password(uri: str) -> str:
    """Return a URI without its user name and password."""
    return re.sub(r"//[^/]*@", "//", uri)


def _client(uri: str) -> Any:
    """Return the client of a URI; raises IndexMissing if there is no response."""
    with _clients_lock:
        if uri not in _clients:
            library = import_pymilvus()
            for name in ("pymilvus", "milvus_lite"):
                # They log a traceback for each error that they raise and that becomes a VectorIndexError.
                logging.getLogger(name).setLevel(logging.CRITICAL)
            try:
                _clients[uri] = library.MilvusClient(
                    uri,
                    token=os.environ.get(TOKEN, ""),
                    timeout=REQUEST_S,
                    grpc_options={"grpc.keepalive_time_ms": KEEPALIVE_MS},
                )
            except library.MilvusException as error:
                hint = "; if another process uses the file, share it with milvus-lite server" if is_local(uri) else ""
                raise IndexMissing(f"no Milvus at {redact_password(uri)} ({_reason(error)}){hint}", "uri") from error
        return _clients[uri]


def _reason(error: Any) -> str:
    message = getattr(error, "message", None) or error.details()
    return str(message).partition("\n")[0][:200]
