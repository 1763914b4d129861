"""The job `vetrina events`: import a file of events into the log.

Records that are not valid events are rejected and written, with the reason, to STORE/events-rejects.jsonl, which the
next import replaces. A file whose import was interrupted can be imported again: stored events count as duplicates.
"""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from embed.behaviour import Event, EventMapping, open_events
from embed.records import Reject
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.storage.event_log import EventLog, open_event_log

BATCH_SIZE = 2000
REJECTS_FILE = "events-rejects.jsonl"


@dataclass
class ImportReport:
    """What became of a file's records: read = stored + duplicates + rejected; `rejects` counts them by reason code."""

    file: str
    read: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    rejects: dict[str, int] = field(default_factory=dict)


def import_events(
    settings: Settings, file: Path, mapping: Path | None = None, progress: Progress | None = None
) -> ImportReport:
    """Import a file of events into a store's log.

    Args:
        settings: the store.
        file: the events, in a format that embed.behaviour.open_events reads.
        mapping: a mapping file for other field names.
        progress: called after each batch.

    Raises:
        BadInput: the file or the mapping cannot be read; see open_events.
        StoreUnavailable: the event database cannot be used.
    """
    report, codes = ImportReport(file.name), Counter[str]()
    log = open_event_log(settings)
    size = file.stat().st_size
    batch: list[Event] = []
    try:
        with (
            open_events(file, EventMapping.load(mapping) if mapping else None) as records,
            (settings.store / REJECTS_FILE).open("wb") as rejects,
        ):
            for entry in records.entries:
                report.read += 1
                if isinstance(entry, Reject):
                    codes[entry.code] += 1
                    rejects.write(orjson.dumps(asdict(entry), default=str, option=orjson.OPT_APPEND_NEWLINE))
                    continue
                batch.append(entry)
                if len(batch) == BATCH_SIZE:
                    _store(log, batch, report)
                    if progress:
                        progress("import events", records.position(), size, "bytes")
            _store(log, batch, report)
            if progress:
                progress("import events", size, size, "bytes")
    finally:
        log.close()
    report.rejected, report.rejects = codes.total(), dict(codes.most_common())
    return report


def _store(log: EventLog, batch: list[Event], report: ImportReport) -> None:
    new = sum(log.add(batch))
    report.stored += new
    report.duplicates += len(batch) - new
    batch.clear()
