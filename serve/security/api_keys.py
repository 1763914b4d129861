"""API keys: who may call what. The store keeps their SHA-256 only, so that nobody can take a key from a backup.

A key is 256 random bits, so a plain hash is enough: there is nothing to guess. Keys are created and revoked by the
command line; a service that runs sees either within a second.
"""

import hashlib
import secrets
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embed.durable import alone, stamp, write_file
from serve.core.errors import BadRequest, NotFound, StoreUnavailable

Scope = Literal["query", "events", "catalogue", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
MAX_KEYS = 1000
LOOK_SECONDS = 0.2


class Key(BaseModel):
    """A key as it is kept: `admin` may do everything; `rate` is in requests a second, None as the settings say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = Field(ge=0, lt=MAX_KEYS, description="a small number of its own, for counting its requests")
    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w .@:-]+$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: list[Scope]
    rate: float | None = Field(None, gt=0, le=1_000_000)
    created_at: datetime

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or "admin" in self.scopes


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Annotated[list[Key], Field(max_length=MAX_KEYS)]


class ApiKeys:
    """The keys of a store, as they are now."""

    def __init__(self, store: Path) -> None:
        self._path = store / "keys.json"
        self._stamp: tuple[int, int, int] | None = None
        self._looked = -1.0
        self._by_hash: dict[str, Key] = {}
        self._damage: StoreUnavailable | None = None

    def find(self, secret: str) -> Key | None:
        """The key with this secret, if there is one and it was not revoked."""
        return self._current().get(_hash(secret))

    def any(self) -> bool:
        return bool(self._current())

    def _current(self) -> dict[str, Key]:
        """By hash; the file is looked at every moment. Raises Broken where it is damaged: then nobody gets in."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            found = stamp(self._path)
            if found != self._stamp:
                self._stamp, self._damage, self._by_hash = found, None, {}
                try:
                    self._by_hash = {key.sha256: key for key in read_keys(self._path)}
                except StoreUnavailable as damage:
                    self._damage = damage
        if self._damage is not None:
            raise self._damage
        return self._by_hash


def create_key(store: Path, name: str, scopes: Sequence[Scope], rate: float | None = None) -> str:
    """Make a key and keep its hash; its text, which can be had now only. Raises BadRequest for a name there is."""
    secret = f"vt_{secrets.token_urlsafe(32)}"
    with _writing(store):
        kept = read_keys(_path(store))
        if any(key.name == name for key in kept):
            raise BadRequest(f"there is a key {name!r}: revoke it first, or take another name", "name")
        if len(kept) == MAX_KEYS:
            raise BadRequest(f"there are {MAX_KEYS} keys: revoke one first", "name")
        number = min(set(range(MAX_KEYS)) - {key.number for key in kept})
        try:
            key = Key(
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
            raise BadRequest(f"{field}: {first['msg']} (got {first['input']!r})", field) from error
        _write(store, [*kept, key])
    return secret


def scopes_of(names: Sequence[str]) -> list[Scope]:
    """Scopes by their names; raises BadRequest for one there is not."""
    for name in names:
        if name not in SCOPES:
            raise BadRequest(f"there is no scope {name!r}: there are {', '.join(SCOPES)}", "scope")
    return [scope for scope in SCOPES if scope in names]


def revoke_key(store: Path, name: str) -> None:
    """Let a key open nothing any more. Raises NotFound."""
    with _writing(store):
        kept = read_keys(_path(store))
        if all(key.name != name for key in kept):
            known = ", ".join(key.name for key in kept) or "none"
            raise NotFound(f"there is no key {name!r}: there are {known}", "name", "unknown_key")
        _write(store, [key for key in kept if key.name != name])


def list_keys(store: Path) -> list[Key]:
    """The keys of a store, in the order they were made."""
    return read_keys(_path(store))


def read_keys(path: Path) -> list[Key]:
    """The keys of a file, none where there is no file. Raises Broken where it is damaged."""
    try:
        return _File.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors(include_input=False)[0]["msg"]
        raise StoreUnavailable(
            f"{path} cannot be read ({reason}): restore it, or delete it and make new keys", "keys"
        ) from error


def _writing(store: Path) -> AbstractContextManager[None]:
    if not store.is_dir():
        raise NotFound(f"there is no store {store}: build one first with vetrina build FEED", "store")
    taken = BadRequest("keys are being changed by another command: try again", "keys")
    return alone(store / ".keys.lock", taken)


def _write(store: Path, keys: Sequence[Key]) -> None:
    path = _path(store)
    write_file(path, _File(keys=list(keys)).model_dump_json(indent=1).encode())
    path.chmod(0o600)


def _path(store: Path) -> Path:
    return store / "keys.json"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
