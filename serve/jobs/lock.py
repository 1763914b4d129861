"""Lets one job at a time write to a store."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from embed.durable import exclusive_lock
from serve.core.errors import StoreUnavailable
from serve.security.access_mode import record_access_mode


@contextmanager
def one_job_at_a_time(store: Path) -> Iterator[None]:
    """Hold the store's job lock, as jobs write to the same files; the lock ends with its process.

    Raises StoreUnavailable where another job holds it.
    """
    store.mkdir(parents=True, exist_ok=True)
    locked = StoreUnavailable(f"another job is writing to store {store}: wait until it ends", "store")
    with exclusive_lock(store / ".build.lock", locked):
        record_access_mode(store)
        yield
