"""A real service that requires API keys, with a key of each scope."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.service import Service, served
from serve.core.settings import Settings
from serve.security.api_keys import SCOPES, create_key

KeyedService = tuple[Service, dict[str, str]]


@contextmanager
def keyed_service(original: Settings, folder: Path) -> Iterator[KeyedService]:
    """Serve a copy of a store, with the key of each scope by name; the key `slow` has a rate of 2 requests a second."""
    store = folder / "store"
    shutil.copytree(original.store, store, symlinks=True)
    keys = {scope: create_key(store, scope, [scope]) for scope in SCOPES}
    keys["slow"] = create_key(store, "slow", ["query"], rate=2)
    changes = {"store": store, "max_request_bytes": 20_000, "access_log": True, "timeouts": {"body": 0.5}}
    with served(Settings.model_validate(original.model_dump() | changes)) as service:
        yield service, keys


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
