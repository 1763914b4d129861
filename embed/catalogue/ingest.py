"""Ingest: a feed becomes a catalogue version, with every record kept or rejected and counted.

    STORE/catalogue/
      current -> 3f2a...      the version in use, moved in one atomic step when a new one is complete
      3f2a.../                named by its items' content: items.arrow, rejects.jsonl, report.json, and the edits
                              that are in it (see embed.catalogue.edits)
      refused/                rejects and report of the last feed that was not let in

A kill at any instant leaves the last version in use; what it left half written is removed by the next ingest.
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
from embed.catalogue.cleaning import clean
from embed.catalogue.edits import BATCH, Edit, merge, read_edits, write_changed, write_edits
from embed.catalogue.feed import Feed, open_feed
from embed.catalogue.item import ITEM_SCHEMA, Item
from embed.catalogue.mapping import Binding, Mapping
from embed.catalogue.versions import REPORT_FILE, arrow_file, current, prune, publish, scratch_folder
from embed.durable import alone, point, sha256
from embed.errors import BadInput, Damaged
from embed.records import Reject

Progress = Callable[[int, int, int], None]


@dataclass
class IngestReport:
    """What became of a feed: `read == kept + rejected`. `unchanged` if the catalogue already was exactly this.

    `folder` is where the feed lay, and so where its images are looked for. `journal` is the last live change that the
    catalogue holds, `changed` how many items these have put, patched or deleted since the feed, `edits` the file of
    those that a feed may have to make again.
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
    mapping: Mapping | None = None,
    format: str | None = None,
    force: bool = False,
    edits: Sequence[Edit] = (),
    journal: int = 0,
    progress: Progress | None = None,
) -> IngestReport:
    """Cleans a feed into `store/catalogue` and makes it the current version.

    Of records with one id the last wins. `edits` are made on the feed's items: what came live and is newer than the
    feed; with them the catalogue holds the live changes up to the journal's record `journal`.
    `progress(bytes_done, bytes_total, records)` is called every few thousand records. Raises BadInput for a feed that
    cannot be mapped, and, unless `force`, for one that would empty the catalogue or more than halve it (its rejects and
    report are in `store/catalogue/refused`); Missing; Damaged.
    """
    started = time.monotonic()
    home = store / "catalogue"
    home.mkdir(parents=True, exist_ok=True)
    taken = BadInput(f"another ingest is writing to {home}; wait for it to end", "store")
    with alone(home / ".lock", taken), scratch_folder(home) as scratch:
        report = IngestReport(feed.name, str(feed.parent.resolve()), journal=journal)
        rejects = _Rejects(scratch / "rejects.jsonl", feed.name)
        with rejects, open_feed(feed, mapping, format) as source:
            size = feed.stat().st_size

            def tick(done: bool = False) -> None:
                if progress:
                    progress(size if done else source.position(), size, report.read)

            lines, identities = _read(source, scratch, report, rejects, tick)
            _keep_last(scratch, lines, identities, report, rejects)
            tick(done=True)
        if edits:
            _edit(scratch, edits, report)
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
                f"{feed.name} has {report.kept} usable products where the catalogue has {before}: not let in, for it "
                f"would lose more than half. See {home / 'refused'}, or force it.",
                "feed",
            )
        publish_version(home, scratch, report, previous)
    return report


def read_report(catalogue: Catalogue) -> IngestReport:
    """The report of the ingest that last brought a store's catalogue."""
    path = catalogue.file.with_name(REPORT_FILE)
    try:
        return IngestReport(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise Damaged(f"{path} cannot be read ({error}): ingest the feed again", REPORT_FILE) from error


def current_edits(catalogue: Catalogue) -> list[Edit]:
    """The edits that a store's catalogue has, and that a feed older than they are has to make again."""
    name = read_report(catalogue).edits
    return read_edits(catalogue.file.with_name(name)) if name else []


def edited_version(version: str, told: bytes) -> str:
    """The name of what a version comes to by edits that come to `told`."""
    return hashlib.sha256(version.encode() + told).hexdigest()[:16]


def publish_version(home: Path, scratch: Path, report: IngestReport, previous: Catalogue | None) -> None:
    """Give a written version its report and its name, and make it the current one."""
    _write_report(scratch, report)
    publish(scratch, home / report.version)
    if not report.unchanged:
        point(home / "current", report.version)
        prune(home, {report.version, previous.version if previous else ""})


def check_items(catalogue: Catalogue) -> None:
    """Raise Damaged unless the catalogue's items are, byte for byte, what the ingest wrote."""
    if sha256(catalogue.file) != read_report(catalogue).items_sha256:
        raise Damaged(f"{catalogue.file} is not what was written: ingest the feed again", ITEMS_FILE)


def _write_report(scratch: Path, report: IngestReport) -> None:
    (scratch / REPORT_FILE).write_text(json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n", "utf-8")


def _edit(scratch: Path, edits: Sequence[Edit], report: IngestReport) -> None:
    """Make the edits on the feed's items."""
    fed = (scratch / ITEMS_FILE).rename(scratch / "fed.arrow")
    with pa.OSFile(str(fed)) as file, arrow_file(scratch / ITEMS_FILE, ITEM_SCHEMA) as writer:
        source = pa.ipc.open_file(file)
        batches = map(source.get_batch, range(source.num_record_batches))
        counts, told = write_changed(writer, batches, merge(edits))
    fed.unlink()
    report.edits = write_edits(scratch, edits)
    if counts:
        report.changed, report.version = dict(counts), edited_version(report.version, told)


_STAGED = pa.schema([*ITEM_SCHEMA, pa.field("content", pa.binary(16))])
_ROW = attrgetter(*ITEM_SCHEMA.names)
_TICK = 4000


def _read(
    feed: Feed, scratch: Path, report: IngestReport, rejects: "_Rejects", tick: Callable[[], None]
) -> tuple["array[int]", bytearray]:
    """Stages every clean item of the feed; returns their lines and 128-bit hashes of their ids."""
    lines, identities = array("q"), bytearray()
    repairs: Counter[str] = Counter()
    batch: list[Item] = []
    binding = Binding(feed.mapping, repairs)
    if feed.columns:
        binding.plan(feed.columns)
        binding.check()
    with arrow_file(scratch / "staged.arrow", _STAGED) as staged:
        for entry in feed.records:
            report.read += 1
            outcome = entry if isinstance(entry, Reject) else clean(binding.apply(entry), repairs)
            if isinstance(outcome, Reject):
                rejects.add(outcome)
            else:
                batch.append(outcome)
                lines.append(entry.line)
                identities += hashlib.blake2b(outcome.item_id.encode(), digest_size=16).digest()
                if len(batch) == BATCH:
                    staged.write_batch(_staged(batch))
                    batch.clear()
            if report.read % _TICK == 0:
                binding.check()  # a feed that nothing can come of is refused early
                tick()
        binding.check()
        if batch:
            staged.write_batch(_staged(batch))
    report.format = feed.format
    report.repaired = {kind: count for kind, count in sorted(repairs.items()) if count}
    report.ignored_columns = [name for name in binding.seen if name not in binding.used and name not in feed.used]
    return lines, identities


def _staged(items: list[Item]) -> Any:
    rows = list(map(_ROW, items))
    contents = [hashlib.blake2b(orjson.dumps(row), digest_size=16).digest() for row in rows]
    columns = [list(column) for column in zip(*rows, strict=True)]
    attributes = ITEM_SCHEMA.get_field_index("attributes")
    columns[attributes] = [list(named.items()) for named in columns[attributes]]
    arrays = [pa.array(values, part.type) for values, part in zip([*columns, contents], _STAGED, strict=True)]
    return pa.record_batch(arrays, schema=_STAGED)


def _keep_last(
    scratch: Path, lines: "array[int]", identities: bytearray, report: IngestReport, rejects: "_Rejects"
) -> None:
    """Writes the staged items without those that a later one replaces, and names the version by what is left."""
    dropped, winners = _replaced(identities)
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
                here = dropped[first:last] - start
                for row, winner in zip(here.tolist(), winners[first:last].tolist(), strict=True):
                    item_id = batch.column(0)[row].as_py()
                    reason = f"replaced by the same id on line {lines[winner]}"
                    rejects.add(Reject(lines[start + row], "duplicate_id", reason, item_id, "item_id"))
                mask = np.ones(batch.num_rows, dtype=bool)
                mask[here] = False
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


def _replaced(identities: bytearray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows whose id comes again, in order, and for each the last row with that id."""
    halves = np.frombuffer(identities, dtype="<u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 0], halves[:, 1]))  # stable: rows of one id stay in feed order
    ranked = halves[order]
    again = np.flatnonzero((ranked[1:] == ranked[:-1]).all(axis=1))  # positions followed by the same id
    lasts = np.setdiff1d(np.arange(len(order)), again, assume_unique=True) if len(again) else again
    winners = order[lasts[np.searchsorted(lasts, again)]] if len(again) else again
    dropped = order[again]
    by_row = np.argsort(dropped)
    return dropped[by_row].astype(np.int64), winners[by_row].astype(np.int64)


class _Rejects:
    """rejects.jsonl, counted by code."""

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
