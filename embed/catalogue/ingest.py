"""Ingests a feed into a new version of the catalogue. Every record is kept or rejected, and counted.

    STORE/catalogue/
      current -> 3f2a...      the current version; the link moves in one atomic step when a new version is complete
      3f2a.../                a version, named by its items' content: items.arrow, rejects.jsonl, report.json, and the
                              edits that it contains (see embed.catalogue.edits)
      refused/                rejects and report of the last feed that was refused

A kill at any instant leaves the last version current; the next ingest removes incomplete files.
"""

import hashlib
import json
import shutil
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from embed.catalogue.catalogue import ITEMS_FILE, Catalogue
from embed.catalogue.edits import BATCH_SIZE, Edit, merge_edits, read_edits, write_edits, write_with_changes
from embed.catalogue.feed import Feed, open_feed
from embed.catalogue.feed_mapping import Binding, FeedMapping
from embed.catalogue.item import ITEM_SCHEMA, Item
from embed.catalogue.item_cleaning import clean_item
from embed.catalogue.versions import (
    REPORT_FILE,
    arrow_file,
    current,
    lock_catalogue,
    prune,
    publish,
    scratch_folder,
)
from embed.durable import replace_link, sha256
from embed.errors import BadInput, Damaged
from embed.progress import Progress
from embed.records import Reject


@dataclass
class IngestReport:
    """Report of an ingest: `read == kept + rejected`. `unchanged` if the catalogue already had exactly these items.

    `folder` is the feed's folder, the default folder of its images. `journal` is the sequence of the last live
    change in the catalogue, `changed` the number of items that live changes put, patched or deleted since the feed,
    `edits` the file of the edits that later ingests may have to apply again.
    """

    feed: str
    folder: str = ""
    format: str = ""
    feed_sha256: str = ""
    items_sha256: str = ""
    version: str = ""
    unchanged: bool = False
    read: int = 0
    kept: int = 0
    rejected: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    ignored_columns: list[str] = field(default_factory=list)
    journal: int = 0
    changed: dict[str, int] = field(default_factory=dict)
    edits: str = ""
    took_s: float = 0.0


def ingest(
    feed: Path,
    store: Path,
    *,
    mapping: FeedMapping | None = None,
    format: str | None = None,
    force: bool = False,
    edits: Sequence[Edit] = (),
    journal: int = 0,
    progress: Progress | None = None,
) -> IngestReport:
    """Clean a feed into `store/catalogue` and make it the current version. Of records with one id, the last wins.

    Args:
        feed: The feed's file.
        store: The store's folder.
        mapping: Which columns become which fields.
        format: Forces the feed's format.
        force: Accept a feed that would remove more than half of the catalogue.
        edits: Live edits that are newer than the feed; they are applied to its items.
        journal: Sequence of the journal's last record that the edits contain.
        progress: Called every few thousand records with bytes read and bytes in total.

    Returns:
        The report of the ingest.

    Raises:
        BadInput: The feed cannot be mapped, or would remove more than half of the catalogue without `force` (its
            rejects and report are then in `store/catalogue/refused`), or another ingest is running.
        Missing: The feed does not exist.
        Damaged: The feed is truncated or damaged.
    """
    started = time.monotonic()
    home = store / "catalogue"
    home.mkdir(parents=True, exist_ok=True)
    with lock_catalogue(home), scratch_folder(home) as scratch:
        report = IngestReport(feed.name, str(feed.parent.resolve()), journal=journal)
        rejects = _Rejects(scratch / "rejects.jsonl", feed.name)
        with rejects, open_feed(feed, mapping, format) as source:
            size = feed.stat().st_size

            def report_progress(done: bool = False) -> None:
                if progress:
                    progress(size if done else source.position(), size)

            lines, id_hashes = _stage(source, scratch, report, rejects, report_progress)
            _keep_last(scratch, lines, id_hashes, report, rejects)
            report_progress(done=True)
        if edits:
            _apply_edits(scratch, edits, report)
        report.feed_sha256, report.items_sha256 = sha256(feed), sha256(scratch / ITEMS_FILE)
        report.rejects = dict(sorted(rejects.codes.items()))
        report.rejected = sum(rejects.codes.values())
        if report.read != report.kept + report.rejected:
            raise AssertionError(f"read {report.read} != kept {report.kept} + rejected {report.rejected}")
        previous = current(home)
        report.unchanged = previous is not None and previous.version == report.version
        report.took_s = round(time.monotonic() - started, 3)
        before = len(previous) if previous else 0
        if 2 * report.kept < before and not force:
            (scratch / ITEMS_FILE).unlink()
            _write_report(scratch, report)
            shutil.rmtree(home / "refused", ignore_errors=True)
            publish(scratch, home / "refused")
            raise BadInput(
                f"{feed.name} is refused: it has {report.kept} usable products, less than half of the {before} in the "
                f"catalogue. See {home / 'refused'}, or run again with --force.",
                "feed",
            )
        publish_version(home, scratch, report, previous)
    return report


def read_report(catalogue: Catalogue) -> IngestReport:
    """Read the report of the ingest that made a catalogue; raises Damaged."""
    path = catalogue.file.with_name(REPORT_FILE)
    try:
        return IngestReport(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise Damaged(f"{path} cannot be read ({error}): ingest the feed again", REPORT_FILE) from error


def current_edits(catalogue: Catalogue) -> list[Edit]:
    """Read the edits that a catalogue contains, which must be applied again to a feed that is older than they are."""
    name = read_report(catalogue).edits
    return read_edits(catalogue.file.with_name(name)) if name else []


def version_with_edits(version: str, digest: bytes) -> str:
    """Return the name of a version after edits with a digest."""
    return hashlib.sha256(version.encode() + digest).hexdigest()[:16]


def publish_version(home: Path, scratch: Path, report: IngestReport, previous: Catalogue | None) -> None:
    """Write the report of a new version, give it its name, and make it the current one."""
    _write_report(scratch, report)
    publish(scratch, home / report.version)
    if not report.unchanged:
        replace_link(home / "current", report.version)
        prune(home, {report.version, previous.version if previous else ""})


def check_items(catalogue: Catalogue) -> None:
    """Raise Damaged unless the items file is, byte for byte, what the ingest wrote."""
    if sha256(catalogue.file) != read_report(catalogue).items_sha256:
        raise Damaged(f"{catalogue.file} is not what was written: ingest the feed again", ITEMS_FILE)


def _write_report(scratch: Path, report: IngestReport) -> None:
    (scratch / REPORT_FILE).write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", "utf-8")


def _apply_edits(scratch: Path, edits: Sequence[Edit], report: IngestReport) -> None:
    """Apply the edits to the feed's items."""
    unedited = (scratch / ITEMS_FILE).rename(scratch / "fed.arrow")
    with pa.OSFile(str(unedited)) as file, arrow_file(scratch / ITEMS_FILE, ITEM_SCHEMA) as writer:
        source = pa.ipc.open_file(file)
        batches = map(source.get_batch, range(source.num_record_batches))
        counts, digest = write_with_changes(writer, batches, merge_edits(edits))
    unedited.unlink()
    report.edits = write_edits(scratch, edits)
    if counts:
        report.changed, report.version = dict(counts), version_with_edits(report.version, digest)


_STAGED = pa.schema([*ITEM_SCHEMA, pa.field("content", pa.binary(16))])
_ROW = attrgetter(*ITEM_SCHEMA.names)
_PROGRESS_EVERY = 4000  # records


def _stage(
    feed: Feed, scratch: Path, report: IngestReport, rejects: "_Rejects", report_progress: Callable[[], None]
) -> tuple["array[int]", bytearray]:
    """Write every clean item of the feed to a staging file; return their lines and 128-bit hashes of their ids."""
    lines, id_hashes = array("q"), bytearray()
    repairs: Counter[str] = Counter()
    batch: list[Item] = []
    binding = Binding(feed.mapping, repairs)
    if feed.columns:
        binding.plan_columns(feed.columns)
        binding.check()
    with arrow_file(scratch / "staged.arrow", _STAGED) as staged:
        for entry in feed.records:
            report.read += 1
            outcome = entry if isinstance(entry, Reject) else clean_item(binding.apply(entry), repairs)
            if isinstance(outcome, Reject):
                rejects.add(outcome)
            else:
                batch.append(outcome)
                lines.append(entry.line)
                id_hashes += hashlib.blake2b(outcome.item_id.encode(), digest_size=16).digest()
                if len(batch) == BATCH_SIZE:
                    staged.write_batch(_staged_batch(batch))
                    batch.clear()
            if report.read % _PROGRESS_EVERY == 0:
                binding.check()  # refuse an unusable feed early
                report_progress()
        binding.check()
        if batch:
            staged.write_batch(_staged_batch(batch))
    report.format = feed.format
    report.repaired = {kind: count for kind, count in sorted(repairs.items()) if count}
    report.ignored_columns = [name for name in binding.columns if name not in binding.used and name not in feed.used]
    return lines, id_hashes


def _staged_batch(items: list[Item]) -> Any:
    rows = list(map(_ROW, items))
    contents = [hashlib.blake2b(orjson.dumps(row), digest_size=16).digest() for row in rows]
    columns = [list(column) for column in zip(*rows, strict=True)]
    attributes = ITEM_SCHEMA.get_field_index("attributes")
    columns[attributes] = [list(named.items()) for named in columns[attributes]]
    arrays = [pa.array(values, part.type) for values, part in zip([*columns, contents], _STAGED, strict=True)]
    return pa.record_batch(arrays, schema=_STAGED)


def _keep_last(
    scratch: Path, lines: "array[int]", id_hashes: bytearray, report: IngestReport, rejects: "_Rejects"
) -> None:
    """Write the staged items without those that a later one replaces, and name the version by its content."""
    dropped, winners = _find_replaced(id_hashes)
    contents = hashlib.sha256()
    start = 0
    with (
        pa.OSFile(str(scratch / "staged.arrow")) as file,
        arrow_file(scratch / ITEMS_FILE, ITEM_SCHEMA) as writer,
    ):
        staged = pa.ipc.open_file(file)
        for index in range(staged.num_record_batches):
            batch = staged.get_batch(index)
            first, last = np.searchsorted(dropped, (start, start + batch.num_rows))
            if first < last:
                rows = dropped[first:last] - start
                for row, winner in zip(rows.tolist(), winners[first:last].tolist(), strict=True):
                    item_id = batch.column(0)[row].as_py()
                    reason = f"replaced by the same id on line {lines[winner]}"
                    rejects.add(Reject(lines[start + row], "duplicate_id", reason, item_id, "item_id"))
                mask = np.ones(batch.num_rows, dtype=bool)
                mask[rows] = False
                start += batch.num_rows
                batch = batch.filter(pa.array(mask))
            else:
                start += batch.num_rows
            column = batch.column("content")
            contents.update(memoryview(column.buffers()[1])[16 * column.offset : 16 * (column.offset + len(column))])
            report.kept += batch.num_rows
            if batch.num_rows:
                writer.write_batch(batch.select(ITEM_SCHEMA.names))
    (scratch / "staged.arrow").unlink()
    report.version = contents.hexdigest()[:16]


def _find_replaced(id_hashes: bytearray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows whose id comes again later, in order, and for each the last row with that id."""
    halves = np.frombuffer(id_hashes, dtype="<u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 0], halves[:, 1]))  # stable: rows of one id stay in feed order
    ranked = halves[order]
    again = np.flatnonzero((ranked[1:] == ranked[:-1]).all(axis=1))  # positions followed by the same id
    lasts = np.setdiff1d(np.arange(len(order)), again, assume_unique=True) if len(again) else again
    winners = order[lasts[np.searchsorted(lasts, again)]] if len(again) else again
    dropped = order[again]
    by_row = np.argsort(dropped)
    return dropped[by_row].astype(np.int64), winners[by_row].astype(np.int64)


class _Rejects:
    """Writes rejects.jsonl and counts the rejects by code."""

    def __init__(self, path: Path, feed: str) -> None:
        self._path = path
        self._feed = feed
        self.codes: Counter[str] = Counter()

    def __enter__(self) -> "_Rejects":
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, reject: Reject) -> None:
        self.codes[reject.code] += 1
        line = {"file": self._feed, **asdict(reject)}
        self._file.write(json.dumps(line).encode() + b"\n")  # ASCII: an undecodable id stays writable
