"""Folds journalled live changes into the catalogue, and deletes journal records that every release contains."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embed.catalogue import Catalogue, Edit, IngestReport, current_edits, fold_edits, read_report
from embed.errors import EmbedError
from embed.vector_store import VectorStore, as_keys
from index.journal import Journal, prune_segments, segment_starts
from index.space import Vectors
from serve.live.change_record import UNKNOWN_KEY, LiveChange, journal_folder
from serve.release.manifest import Manifest


def fold_journal(store: Path) -> IngestReport | None:
    """Fold new live changes into the catalogue, and their vectors into the vector store; None if there are none.

    Changes that arrive meanwhile go to a new segment of the journal, which the next build folds.
    """
    journal = Journal(journal_folder(store), read_report(Catalogue.current(store)).journal)
    edits: list[Edit] = []
    encoded: dict[tuple[str, str, int], dict[bytes, Vectors]] = {}

    def read_changes() -> None:
        for record in journal.read():
            change = LiveChange.from_record(record)
            edits.append(change.edit(record))
            for name, rows in (change.rows or {}).items():
                vectors = encoded.setdefault((name, rows.fingerprint, rows.vectors.shape[1]), {})
                vectors.update(zip(rows.keys, rows.vectors, strict=True))

    read_changes()  # nearly all of them, while writers still write
    with journal.lock() as writer:
        read_changes()
        writer.rotate()
    if not edits:
        return None
    for (name, fingerprint, dim), vectors in encoded.items():
        _store_vectors(VectorStore(store, name, fingerprint, dim), vectors)
    return fold_edits(store, edits, journal.position)


def edits_beyond(store: Path, feed: Path, released: int) -> tuple[list[Edit], int]:
    """Return the edits that a feed must not undo, and the last journal record that they include.

    These are the edits made after the feed was written, and those after record `released`, which no release contains
    yet. Without a readable catalogue they come from the journal, as far back as it goes.
    """
    folder = journal_folder(store)
    try:
        catalogue = Catalogue.current(store)
        edits, position = current_edits(catalogue), read_report(catalogue).journal
    except EmbedError:  # a good feed repairs the catalogue
        starts = segment_starts(folder)
        journal = Journal(folder, starts[0] - 1 if starts else released)
        edits = [LiveChange.from_record(record).edit(record) for record in journal.read()]
        position = journal.position
    written = feed.stat().st_mtime if feed.exists() else 0.0  # the ingest reports a missing feed
    return [edit for edit in edits if edit.sequence > released or edit.at > written], position


def prune_journal(store: Path, manifests: Sequence[Manifest]) -> None:
    """Delete the segments of the journal that every release on disk contains."""
    prune_segments(journal_folder(store), min(manifest.journal for manifest in manifests))


def _store_vectors(store: VectorStore, vectors: dict[bytes, Vectors]) -> None:
    """Store the vectors that were encoded for live changes, so that they are not encoded again."""
    vectors.pop(UNKNOWN_KEY, None)
    keys = list(vectors)
    new = [key for key, known in zip(keys, store.contains(as_keys(keys)), strict=True) if not known]
    if new:
        store.append(new, np.stack([vectors[key] for key in new]))
