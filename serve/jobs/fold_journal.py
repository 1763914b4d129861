"""Fold journalled live changes into the catalogue, and prune journal records that a release contains."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from embed.catalogue import Catalogue, Edit, IngestReport, current_edits, fold, read_report
from embed.errors import EmbedError
from embed.vector_store import VectorStore, as_keys
from index.journal import Journal, prune, segment_starts
from index.space import Vectors
from serve.live.change_record import UNKNOWN_KEY, LiveChange, journal_folder
from serve.release.manifest import Manifest


def fold_journal(store: Path) -> IngestReport | None:
    """Fold what came since into the catalogue and its vectors into the vector store; None where nothing came.

    What comes while this goes on begins a new segment of the journal, and is folded in by the next build.
    """
    journal = Journal(journal_folder(store), read_report(Catalogue.current(store)).journal)
    edits: list[Edit] = []
    encoded: dict[tuple[str, str, int], dict[bytes, Vectors]] = {}

    def take() -> None:
        for record in journal.read():
            change = LiveChange.from_record(record)
            edits.append(change.edit(record))
            for name, rows in (change.rows or {}).items():
                of = encoded.setdefault((name, rows.fingerprint, rows.vectors.shape[1]), {})
                of.update(zip(rows.keys, rows.vectors, strict=True))

    take()  # nearly all, without keeping writers out
    with journal.writing() as writer:
        take()
        writer.rotate()
    if not edits:
        return None
    for (name, fingerprint, dim), vectors in encoded.items():
        _keep_vectors(VectorStore(store, name, fingerprint, dim), vectors)
    return fold(store, edits, journal.position)


def edits_beyond(store: Path, feed: Path, released: int) -> tuple[list[Edit], int]:
    """What a feed must not undo, and the record of the journal up to which that is all there is.

    These are the edits made after the feed was written, and those that are not `released` yet, whatever the feed says.
    Without a catalogue that can be read they are taken from the journal, as far back as it goes.
    """
    folder = journal_folder(store)
    try:
        catalogue = Catalogue.current(store)
        edits, position = current_edits(catalogue), read_report(catalogue).journal
    except EmbedError:  # which a good feed repairs
        starts = segment_starts(folder)
        journal = Journal(folder, starts[0] - 1 if starts else released)
        edits = [LiveChange.from_record(record).edit(record) for record in journal.read()]
        position = journal.position
    written = feed.stat().st_mtime if feed.exists() else 0.0  # the ingest will say that there is none
    return [edit for edit in edits if edit.sequence > released or edit.at > written], position


def prune_journal(store: Path, manifests: Sequence[Manifest]) -> None:
    """Delete the segments that no release on disk needs to be brought up to date."""
    prune(journal_folder(store), min(manifest.journal for manifest in manifests))


def _keep_vectors(store: VectorStore, vectors: dict[bytes, Vectors]) -> None:
    """What was encoded for a live change is not encoded again."""
    vectors.pop(UNKNOWN_KEY, None)
    keys = list(vectors)
    new = [key for key, known in zip(keys, store.known(as_keys(keys)), strict=True) if not known]
    if new:
        store.append(new, np.stack([vectors[key] for key in new]))
