"""Folds live edits into the next version of the catalogue."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from embed.catalogue.catalogue import ITEMS_FILE, Catalogue
from embed.catalogue.edits import Edit, compact_edits, merge_edits, write_edits, write_with_changes
from embed.catalogue.ingest import IngestReport, current_edits, publish_version, read_report, version_with_edits
from embed.catalogue.item import ITEM_SCHEMA
from embed.catalogue.versions import arrow_file, lock_catalogue, scratch_folder
from embed.durable import sha256


def fold_edits(store: Path, edits: Sequence[Edit], journal: int) -> IngestReport:
    """Apply new edits to the current catalogue and publish the result as the current version.

    Edits that change nothing make no new version.

    Args:
        store: The store's folder.
        edits: The edits, in order.
        journal: Sequence of the journal's last record that the edits contain.

    Returns:
        The report of the version.

    Raises:
        BadInput: Another process is writing the catalogue.
    """
    home = store / "catalogue"
    with lock_catalogue(home), scratch_folder(home) as scratch:
        before = Catalogue.current(store)
        report = read_report(before)
        with arrow_file(scratch / ITEMS_FILE, ITEM_SCHEMA) as writer:
            counts, digest = write_with_changes(writer, before.record_batches(), merge_edits(edits))
        report.unchanged = not counts
        if counts:
            report.changed = dict(Counter(report.changed) + counts)
            report.version = version_with_edits(before.version, digest)
            report.items_sha256 = sha256(scratch / ITEMS_FILE)
        else:
            shutil.copyfile(before.file, scratch / ITEMS_FILE)
        report.edits = write_edits(scratch, compact_edits([*current_edits(before), *edits]))
        report.journal = journal
        rejects = before.file.with_name("rejects.jsonl")
        shutil.copyfile(rejects, scratch / rejects.name)
        publish_version(home, scratch, report, before)
    return report
