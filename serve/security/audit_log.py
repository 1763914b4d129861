"""The audit log: who changed what and when, a line of JSON each, on disk before the act is acknowledged.

It names keys and things of the shop. Shoppers appear as a hash only: that somebody was erased can be shown to whoever
knows the id, and the id is nowhere.
"""

import fcntl
import getpass
import hashlib
import os
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

FILE = "audit.jsonl"


def note(store: Path, act: str, by: str, **what: Any) -> None:
    """Add an act of `by` to the store's audit log; values are strings, numbers or lists of them."""
    line = orjson.dumps({"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "act": act, "by": by, **what})
    descriptor = os.open(store / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # a line is one write, but a full disk may take half of it
        os.write(descriptor, line + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(store: Path, last: int) -> list[dict[str, Any]]:
    """The last acts, the latest last; a line that a full disk cut off is left out."""
    try:
        with (store / FILE).open("rb") as file:
            lines = deque(file, maxlen=last)
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with suppress(orjson.JSONDecodeError):
            found.append(orjson.loads(line))
    return found


def operator() -> str:
    """Who uses the command line."""
    try:
        return f"command line ({getpass.getuser()})"
    except (KeyError, OSError):  # a container may run under a number without a name
        return f"command line ({os.getuid()})"


def hashed(user_id: str) -> str:
    """A shopper as the audit log has it."""
    return hashlib.sha256(user_id.encode("utf-8", "surrogateescape")).hexdigest()
