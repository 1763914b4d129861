"""A release and the live changes on it, followed through the journal."""

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
from serve.live.change_record import LiveChange, journal_folder, rows_for
from serve.live.item_encoder import ItemEncoder
from serve.moderation.policy import ContentPolicyFile
from serve.release.images import image_source
from serve.release.overlay import ReleaseOverlay, same_content
from serve.release.release import Release
from serve.release.repository import open_current
from serve.release.snapshot import ItemVectors, Snapshot

PATIENCE_SECONDS = 60.0  # for other workers that load the same release

log = logging.getLogger("vetrina")


class ReleaseReplica:
    """One release and the changes on it, as far as the journal was read."""

    def __init__(self, release: Release, settings: Settings, encoders: Encoders) -> None:
        self.release = release
        self._settings, self._encoders = settings, encoders
        self.journal = Journal(journal_folder(settings.store), release.manifest.journal)
        self.items = ReleaseOverlay(release)
        self._review = ContentPolicyFile(settings.store)
        self.refresh()

    def catch_up(self) -> bool:
        """Apply what the journal and the content review say beyond here; whether there was anything."""
        before, view = self.journal.position, self.view
        try:
            for record in self.journal.read():
                self.apply(LiveChange.from_record(record))
        finally:
            if self.journal.position != before or self._review.current() is not view.policy:
                self.refresh()
        return self.view is not view

    def apply(self, change: LiveChange) -> None:
        """Make one change; every process makes the same ones in the same order."""
        if change.kind == "delete":
            self.items.delete(change.item_id)
        elif change.kind == "patch":
            self.items.patch(change.item_id, change.fields)
        elif change.item is not None:
            rows = rows_for(self.release, change)
            before = self.items.current(change.item_id)
            if rows is None and (before is None or not same_content(before, change.item)):
                rows = self._encode(change.item)
            self.items.put(change.item, rows)

    def _encode(self, item: Item) -> dict[str, ItemVectors]:
        """Vectors for a change that was written beside another release, by whose encoders or items it has none."""
        self.refresh()
        try:
            with closing(image_source(self._settings)) as source:
                (found,) = ItemEncoder(self.view, self._encoders, source).rows([item])
        except EXPECTED as error:
            log.error("item %s has no vectors until the next build: %s", item.item_id, error_response(error).message)
            found = None
        nothing = {
            name: ItemVectors([], np.empty((0, each.dim), np.float32))
            for name, each in self.release.manifest.spaces.items()
        }
        return nothing | {name: ItemVectors(rows.labels, rows.vectors) for name, rows in (found or {}).items()}

    def refresh(self) -> None:
        self.view: Snapshot = self.items.view(self.journal.position, self._review.current())


def open_engine(settings: Settings) -> Engine:
    """The engine of the current release with its live changes, for one question; raises as `open_current` does."""
    encoders = make_encoders(settings)
    return Engine(open_view(settings, encoders), encoders, settings)


def open_view(settings: Settings, encoders: Encoders | None = None) -> Snapshot:
    """The current release with its live changes; raises as `open_current` does."""
    replica = ReleaseReplica(open_current(settings.store), settings, encoders or make_encoders(settings))
    replica.catch_up()
    return replica.view


@contextmanager
def loading_together(folder: Path, stop: threading.Event) -> Iterator[None]:
    """Held by each process that loads the release in `folder`; leaving it waits for those that are loading it still.

    So the workers of a machine go to a release within a moment, which no caller sees between them, and neither lies in
    memory beside the other for longer. The lock dies with its process.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and not stop.is_set():
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(0.005)
    finally:
        os.close(descriptor)
