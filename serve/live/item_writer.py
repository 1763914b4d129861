"""Writes live changes of items: encodes, journals and applies them."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any

from embed.catalogue import FeedMapping, Item
from embed.images import ImageSource
from serve.core.errors import StoreUnavailable
from serve.core.settings import Settings
from serve.live.active_releases import ActiveReleases
from serve.live.change_record import LiveChange
from serve.live.item_changes import ItemChangeResult, MakeChange, delete_items, patch_items, put_items
from serve.live.item_encoder import ItemEncoder
from serve.live.journal_watcher import JournalWatcher
from serve.moderation.image_classifier import classify_items
from serve.release.build_inputs import load_mapping
from serve.release.images import image_source

_log = logging.getLogger("vetrina")


class ItemWriter:
    """Changes items of the active release. Each change is durable, and visible in this process, on return."""

    def __init__(self, settings: Settings, releases: ActiveReleases, journal: JournalWatcher) -> None:
        self._settings, self._releases, self._journal = settings, releases, journal
        try:
            _ = self._mapping  # an invalid setting stops the service
        except StoreUnavailable as error:
            _log.error("items cannot be put: %s", error.message)

    def put(self, rows: Sequence[Mapping[str, Any]]) -> list[ItemChangeResult]:
        """Add or replace whole items."""
        with closing(image_source(self._settings)) as source:
            encoder = ItemEncoder(self._releases.active().engine.snapshot, self._releases.encoders, source)
            changes = put_items(rows, self._mapping, encoder, lambda items: self._review(items, source))
        results = self._write(*changes)
        snapshot = self._releases.active().engine.snapshot
        for result in results:
            if result.status != "rejected" and (reason := snapshot.why_hidden(result.item_id)):
                result.warnings += (f"not shown: {reason}",)
        return results

    def patch(self, rows: Sequence[Mapping[str, Any]]) -> list[ItemChangeResult]:
        """Change fields that no encoder reads: only the journal is written."""
        return self._write(*patch_items(rows))

    def delete(self, item_ids: Sequence[str]) -> list[ItemChangeResult]:
        """Delete items."""
        return self._write(*delete_items(item_ids))

    @cached_property
    def _mapping(self) -> FeedMapping | None:
        return load_mapping(self._settings)

    def _review(self, items: Sequence[Item], source: ImageSource) -> None:
        if self._settings.review.classifier:
            with self._releases.lock:
                classify_items(self._settings, items, source)

    def _write(self, results: list[ItemChangeResult], make_change: MakeChange) -> list[ItemChangeResult]:
        """Journal and apply the changes that `make_change` makes of the rows that are not rejected."""
        with self._releases.lock:
            replica = self._releases.active().replica
            with replica.journal.lock() as writer:
                replica.catch_up()
                written: set[str] = set()
                changes: list[LiveChange] = []
                for row, result in enumerate(results):
                    if result.status == "rejected":
                        continue
                    if result.item_id in written:
                        message = f"item_id {result.item_id!r} appears twice in one request: send it once"
                        results[row] = ItemChangeResult(result.item_id, "rejected", "duplicate_id", message, "item_id")
                        continue
                    written.add(result.item_id)
                    made = make_change(row, replica.items.current(result.item_id))
                    if made is not None:
                        changes.append(made)
                if changes:
                    writer.append([each.to_bytes() for each in changes])
                    for each in changes:
                        replica.apply(each)
            replica.refresh()
            self._releases.serve(replica)
            self._journal.catch_up_treatment()
        return results
