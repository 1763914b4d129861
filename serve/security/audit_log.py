"""The audit log: the actions that changed a store, with their author and time.

One JSON object a line, on disk before the action is acknowledged. The log contains names of API keys and ids of items
and releases. It contains users only as a hash: the erasure of a user can be proved to anybody who knows the id, but the
id itself is not stored.
"""

import fcntl
import getpass
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

FILE = "audit.jsonl"


def record(store: Path, action: str, by: str, **details: Any) -> None:
    """Append an action of `by` to the store's audit log; details are strings, numbers or lists of them."""
    entry = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "action": action, "by": by, **details}
    descriptor = os.open(store / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        cut_off = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"  # by a full disk
        os.write(descriptor, (b"\n" if cut_off else b"") + orjson.dumps(entry) + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_latest(store: Path, limit: int) -> list[dict[str, Any]]:
    """Return the latest `limit` entries, oldest first."""
    return list(deque(iterate(store), maxlen=limit))


def iterate(store: Path) -> Iterator[dict[str, Any]]:
    """Yield all entries, oldest first, without lines that a full disk cut off."""
    try:
        file = (store / FILE).open("rb")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            with suppress(orjson.JSONDecodeError):
                entry = orjson.loads(line)
                if "act" in entry:  # its name in version 0.1
                    entry = {"at": entry.pop("at"), "action": entry.pop("act"), **entry}
                yield entry


def command_line_user() -> str:
    """Return the author of actions on the command line."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):  # a container may run as a user id without a name
        return f"command line ({os.getuid()})"


def hash_user_id(user_id: str) -> str:
    """Return the form in which the audit log contains a user."""
    return hashlib.sha256(user_id.encode("utf-8", "surrogateescape")).hexdigest()
