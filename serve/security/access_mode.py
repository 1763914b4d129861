"""Whether a store requires API keys.

The file `access.json` in the store holds the mode, as `{"auth": "keys"}` or `{"auth": "none"}`. The first job of a new
store writes `keys`, and so does every command that creates or revokes a key. `vetrina keys disable` and `vetrina demo`
write `none`: the store is then keyless, and requests from this machine need no key.

A store of version 0.1 has no such file. If it has no trace of a key either, it is keyless as it was in that version,
and the service logs a warning. In every other case a missing file means that a key is required.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from embed.durable import write_file
from serve.core.errors import StoreUnavailable
from serve.security import audit_log

AuthMode = Literal["keys", "none"]
KEYS_FILE = "keys.json"
ACCESS_FILE = "access.json"


class _AccessFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    auth: AuthMode


def read_access_mode(store: Path) -> AuthMode | None:
    """Read the mode of a store; None if it has none yet. Raises StoreUnavailable for a damaged file."""
    path = store / ACCESS_FILE
    try:
        return _AccessFile.model_validate_json(path.read_bytes()).auth
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        message = f"cannot read {path}: restore it, or delete it and run vetrina keys create NAME"
        raise StoreUnavailable(message, "access") from error


def write_access_mode(store: Path, auth: AuthMode) -> None:
    """Record the mode of a store; on disk when this returns."""
    if not (store / ACCESS_FILE).exists() or read_access_mode(store) != auth:
        write_file(store / ACCESS_FILE, _AccessFile(auth=auth).model_dump_json().encode() + b"\n")


def record_access_mode(store: Path) -> None:
    """Record that a new store, or one that ever had a key, requires keys; keep a mode that is recorded already."""
    if not (store / ACCESS_FILE).exists() and (not _has_catalogue(store) or has_had_key(store)):
        write_access_mode(store, "keys")


def has_had_key(store: Path) -> bool:
    """Return whether a store has, or once had, an API key."""
    return (store / KEYS_FILE).exists() or any(entry["action"] == "create key" for entry in audit_log.iterate(store))


def is_undecided(store: Path) -> bool:
    """Return whether a store records no mode and never had a key."""
    return not (store / ACCESS_FILE).exists() and not has_had_key(store)


def is_keyless_by_default(store: Path) -> bool:
    """Return whether a store was created by version 0.1 and never had a key."""
    return _has_catalogue(store) and is_undecided(store)


def _has_catalogue(store: Path) -> bool:
    return (store / "catalogue").exists() or (store / "releases").exists()
