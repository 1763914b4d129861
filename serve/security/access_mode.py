"""Whether a store requires API keys.

The file `access.json` in the store holds the mode, as `{"auth": "keys"}` or `{"auth": "none"}`. The first job of a new
store writes `keys`, and so does every command that creates or revokes a key. `vetrina keys disable` and `vetrina demo`
write `none`: the store is then keyless, and requests from this machine need no key.

A store of version 0.1 has no such file, and no other file that only later versions write. If it has no trace of a key
either, it is keyless as it was in that version. The first job or service that uses it records that, as
`{"auth": "none", "inherited": true}`, and the service logs a warning until a command decides. In every other case a
missing file means that a key is required.
"""

from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from embed.durable import write_file
from serve.core.errors import StoreUnavailable
from serve.security import audit_log

AuthMode = Literal["keys", "none"]
KEYS_FILE = "keys.json"
ACCESS_FILE = "access.json"
NEW_FILES = ("build_inputs.json", "database-id")  # written by jobs and services since version 0.2


class _AccessFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    auth: AuthMode
    inherited: bool = False  # keyless only because it was so in version 0.1


def read_access_mode(store: Path) -> AuthMode | None:
    """Read the mode of a store; None if it has none yet. Raises StoreUnavailable for a damaged file."""
    access = _read(store)
    return None if access is None else access.auth


def _read(store: Path) -> _AccessFile | None:
    path = store / ACCESS_FILE
    try:
        return _AccessFile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        message = f"cannot read {path}: restore it, or delete it and run vetrina keys create NAME"
        raise StoreUnavailable(message, "access") from error


def write_access_mode(store: Path, auth: AuthMode) -> None:
    """Record the mode of a store; on disk when this returns."""
    _write(store, _AccessFile(auth=auth))


def _write(store: Path, access: _AccessFile) -> None:
    if _read(store) != access:
        write_file(store / ACCESS_FILE, access.model_dump_json(exclude_defaults=True).encode() + b"\n")


def record_access_mode(store: Path) -> None:
    """Record the mode of a store that has none: `none` for a keyless one of version 0.1, `keys` for any other."""
    if not (store / ACCESS_FILE).exists():
        record_inherited_mode(store)
    if not (store / ACCESS_FILE).exists():
        write_access_mode(store, "keys")


def record_inherited_mode(store: Path) -> None:
    """Record that a store of version 0.1 is keyless, before this process writes a file that version 0.1 did not."""
    if not (store / ACCESS_FILE).exists() and is_keyless_by_default(store):
        with suppress(OSError):  # a store that may only be read stays as it is
            _write(store, _AccessFile(auth="none", inherited=True))


def has_had_key(store: Path) -> bool:
    """Return whether a store has, or once had, an API key."""
    return (store / KEYS_FILE).exists() or any(entry["action"] == "create key" for entry in audit_log.iterate(store))


def is_undecided(store: Path) -> bool:
    """Return whether no command has decided the mode of a store, and it never had a key."""
    access = _read(store)
    return (access is None or access.inherited) and not has_had_key(store)


def is_keyless_by_default(store: Path) -> bool:
    """Return whether a store is keyless because it was created by version 0.1 and never had a key."""
    access = _read(store)
    if access is not None:
        return access.inherited
    is_old = _has_catalogue(store) and not any((store / name).exists() for name in NEW_FILES)
    return is_old and not has_had_key(store)


def _has_catalogue(store: Path) -> bool:
    return (store / "catalogue").exists() or (store / "releases").exists()
