"""API keys and their scopes. The store holds only their SHA-256 hashes, so a backup reveals no key.

A key is 256 random bits, so a plain hash is safe: it cannot be guessed. The command line creates and revokes keys; a
running service notices within a second. `serve.security.access_mode` describes stores without a key.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embed.durable import exclusive_lock, file_stamp, write_file
from serve.core.errors import BadRequest, NotFound, StoreUnavailable
from serve.security.access_mode import (
    ACCESS_FILE,
    KEYS_FILE,
    AuthMode,
    is_keyless_by_default,
    read_access_mode,
    record_inherited_mode,
    write_access_mode,
)

log = logging.getLogger("vetrina")
Scope = Literal["query", "events", "catalogue", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
MAX_KEYS = 1000
REFRESH_SECONDS = 0.2
HOW_TO_CHOOSE = (
    "create one with vetrina keys create NAME, or allow requests from this machine without a key with "
    "vetrina keys disable"
)


class ApiKey(BaseModel):
    """A stored key. `admin` includes all scopes; `rate` is in requests a second, None for the setting `rate_limit`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = Field(ge=0, lt=MAX_KEYS, description="small unique number, the row of the key's rate counter")
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w .@:-]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: list[Scope]
    rate: float | None = Field(None, gt=0, le=1_000_000)
    created_at: datetime

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[list[ApiKey], Field(max_length=MAX_KEYS)]


class ApiKeys:
    """The current keys and access mode of a store, reread when their files change."""

    def __init__(self, store: Path) -> None:
        self._store = store
        record_inherited_mode(store)
        # Where the mode could not be recorded, this process remembers it.
        self._keyless_by_default = not (store / ACCESS_FILE).exists() and is_keyless_by_default(store)
        self._stamps: tuple[object, ...] = ()
        self._checked = -1.0
        self._by_hash: dict[str, ApiKey] = {}
        self._auth: AuthMode = "keys"
        self._damage: StoreUnavailable | None = None

    @property
    def auth(self) -> AuthMode:
        """`keys` if requests need a key, `none` if the store is keyless. Raises StoreUnavailable for damaged files."""
        self._refresh()
        return self._auth

    @property
    def is_empty(self) -> bool:
        """Whether the store has no key."""
        self._refresh()
        return not self._by_hash

    def find(self, secret: str) -> ApiKey | None:
        """Return the key with this secret; None if it is unknown or revoked."""
        self._refresh()
        return self._by_hash.get(_hash(secret))

    def log_warnings(self) -> None:
        """Log once, at the start of the service, that the store is keyless by default or serves no request."""
        try:
            keyless, empty = self.auth == "none", self.is_empty
        except StoreUnavailable as damage:
            log.error("every request is refused: %s", damage.message)
            return
        if keyless and is_keyless_by_default(self._store):
            log.warning(
                "store %s was created by version 0.1 and has no API key: requests from this machine are served without "
                "one. Require keys with vetrina keys create NAME, or keep keyless access with vetrina keys disable",
                self._store,
            )
        elif empty and not keyless:
            log.warning("store %s has no API key, so requests are refused: %s", self._store, HOW_TO_CHOOSE)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._checked >= REFRESH_SECONDS:
            self._checked = now
            stamps = (file_stamp(self._store / KEYS_FILE), file_stamp(self._store / ACCESS_FILE))
            if stamps != self._stamps:
                self._stamps = stamps
                self._reload()
        if self._damage is not None:
            raise self._damage

    def _reload(self) -> None:
        # Closed until both files are read; a store that had either file once is no longer keyless by default.
        self._damage, self._by_hash, self._auth = None, {}, "keys"
        self._keyless_by_default = self._keyless_by_default and self._stamps == (None, None)
        try:
            self._by_hash = {key.sha256: key for key in list_keys(self._store)}
            keyless = self._keyless_by_default or read_access_mode(self._store) == "none"
            self._auth = "none" if keyless and not self._by_hash else "keys"
        except StoreUnavailable as damage:
            self._damage = damage


def create_key(store: Path, name: str, scopes: Sequence[Scope], rate: float | None = None) -> str:
    """Create a key, store its hash and return its text, which is available only now.

    Args:
        store: folder of the store.
        name: unique name, which appears in logs.
        scopes: what the key allows.
        rate: requests a second, None for the setting `rate_limit`.

    Raises:
        BadRequest: a key of this name exists, or an argument is invalid.
    """
    secret = f"vt_{secrets.token_urlsafe(32)}"
    with _lock(store):
        keys = list_keys(store)
        if any(key.name == name for key in keys):
            raise BadRequest(f"a key named {name!r} exists: revoke it first, or choose another name", "name")
        if len(keys) == MAX_KEYS:
            raise BadRequest(f"this store has {MAX_KEYS} keys, the maximum: revoke one first", "name")
        number = min(set(range(MAX_KEYS)) - {key.number for key in keys})
        try:
            key = ApiKey(
                number=number,
                name=name,
                sha256=_hash(secret),
                scopes=list(scopes),
                rate=rate,
                created_at=datetime.now(UTC),
            )
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            raise BadRequest(f"invalid {field} {first['input']!r}: {first['msg']}", field) from error
        _write(store, [*keys, key])
    return secret


def parse_scopes(names: Sequence[str]) -> list[Scope]:
    """Return scopes by name. Raises BadRequest for an unknown name."""
    for name in names:
        if name not in SCOPES:
            raise BadRequest(f"unknown scope {name!r}: use {', '.join(SCOPES)}", "scope")
    return [scope for scope in SCOPES if scope in names]


def revoke_key(store: Path, name: str) -> None:
    """Revoke a key. Raises NotFound. The store requires a key even after its last one is revoked."""
    with _lock(store):
        keys = list_keys(store)
        if all(key.name != name for key in keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise NotFound(f"unknown key {name!r}: the keys of this store are {names}", "name", "unknown_key")
        _write(store, [key for key in keys if key.name != name])


def disable_keys(store: Path) -> None:
    """Make a store keyless: requests from this machine need no key. Raises BadRequest while the store has keys."""
    with _lock(store):
        if keys := list_keys(store):
            names = ", ".join(key.name for key in keys)
            raise BadRequest(f"this store has API keys ({names}): revoke them first with vetrina keys revoke", "keys")
        write_access_mode(store, "none")


def list_keys(store: Path) -> list[ApiKey]:
    """Return the keys of a store in the order of their creation. Raises StoreUnavailable for a damaged file."""
    path = store / KEYS_FILE
    try:
        return _KeyFile.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors(include_input=False)[0]["msg"]
        message = f"cannot read {path} ({reason}): restore it, or delete it and create new keys"
        raise StoreUnavailable(message, "keys") from error


def _lock(store: Path) -> AbstractContextManager[None]:
    if not store.is_dir():
        raise NotFound(f"store {store} does not exist: build it first with vetrina build FEED", "store")
    busy = BadRequest("another command is changing the keys: try again", "keys")
    return exclusive_lock(store / ".keys.lock", busy)


def _write(store: Path, keys: Sequence[ApiKey]) -> None:
    write_access_mode(store, "keys")  # first, so that a store is never keyless for a moment, or after a crash
    path = store / KEYS_FILE
    write_file(path, _KeyFile(keys=list(keys)).model_dump_json(indent=1).encode())
    path.chmod(0o600)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
