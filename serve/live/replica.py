"""A release with the live changes since it was built, kept up to date through the journal."""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np

from embed.catalogue import Item
from index.journal import Journal
from serve.core.errors import EXPECTED, error_response
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query_encoders import Encoders, make_encoders
from serve.live.change_record import LiveChange, journal_folder, usable_rows
from serve.live.item_encoder import ItemEncoder
from serve.moderation.policy import ContentPolicyFile
from serve.release.images import image_source
from serve.release.overlay import ReleaseOverlay, same_content
from serve.release.release import Release
from serve.release.repository import open_current
from serve.release.snapshot import ItemVectors, Snapshot

MAX_WAIT_SECONDS = 60.0  # for other processes that load the same release

_log = logging.getLogger("vetrina")


class ReleaseReplica:
    """One release and the changes on it, up to the position that the journal was read to."""

    def __init__(self, release: Release, settings: Settings, encoders: Encoders) -> None:
        self.release = release
        self._settings, self._encoders = settings, encoders
        self.journal = Journal(journal_folder(settings.store), release.manifest.journal)
        self.items = ReleaseOverlay(release)
        self._policy = ContentPolicyFile(settings.store)
        self.refresh()

    def catch_up(self) -> bool:
        """Apply the new changes of the journal and of the content policy; return whether there were any."""
        before, snapshot = self.journal.position, self.snapshot
        try:
            for record in self.journal.read():
                self.apply(LiveChange.from_record(record))
        finally:
            if self.journal.position != before or self._policy.current() is not snapshot.policy:
                self.refresh()
        return self.snapshot is not snapshot

    def apply(self, change: LiveChange) -> None:
        """Apply one change; every process applies the same changes in the same order."""
        if change.kind == "delete":
            self.items.delete(change.item_id)
        elif change.kind == "patch":
            self.items.patch(change.item_id, change.fields)
        elif change.item is not None:
            rows = usable_rows(self.release, change)
            before = self.items.current(change.item_id)
            if rows is None and (before is None or not same_content(before, change.item)):
                rows = self._encode(change.item)
            self.items.put(change.item, rows)

    def _encode(self, item: Item) -> dict[str, ItemVectors]:
        """Return vectors for a change that was written for another release, whose encoders or items differ."""
        self.refresh()
        try:
            with closing(image_source(self._settings)) as source:
                (rows,) = ItemEncoder(self.snapshot, self._encoders, source).encode([item])
        except EXPECTED as error:
            _log.error("item %s has no vectors until the next build: %s", item.item_id, error_response(error).message)
            rows = None
        nothing = {
            name: ItemVectors([], np.empty((0, entry.dim), np.float32))
            for name, entry in self.release.manifest.spaces.items()
        }
        return nothing | {name: ItemVectors(each.labels, each.vectors) for name, each in (rows or {}).items()}

    def refresh(self) -> None:
        """Make a new snapshot of the changes applied so far."""
        self.snapshot: Snapshot = self.items.snapshot(self.journal.position, self._policy.current())


def open_engine(settings: Settings) -> Engine:
    """Open the engine of the current release with its live changes, for one request; raises as `open_current`."""
    encoders = make_encoders(settings)
    return Engine(open_snapshot(settings, encoders), encoders, settings)


def open_snapshot(settings: Settings, encoders: Encoders | None = None) -> Snapshot:
    """Open the snapshot of the current release with its live changes; raises as `open_current`."""
    replica = ReleaseReplica(open_current(settings.store), settings, encoders or make_encoders(settings))
    replica.catch_up()
    return replica.snapshot


@contextmanager
def loading_together(folder: Path, stop: threading.Event) -> Iterator[None]:
    """Hold a lock shared by all processes that load the release in `folder`; on exit, wait for those still loading.

    So all processes of a machine switch releases within a moment, callers do not see both, and no two releases stay in
    memory for longer. The lock is released when its process ends.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
        deadline = time.monotonic() + MAX_WAIT_SECONDS
        while time.monotonic() < deadline and not stop.is_set():
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.005)
    finally:
        os.close(descriptor)
