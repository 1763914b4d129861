"""Import of files of events into the log: cleaned, what is no event listed with its reason, all of it counted.

Rejects are written to STORE/events-rejects.jsonl, which the next import replaces. A file that was imported half may be
imported again: what is there already is counted as a duplicate.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from embed.behaviour import Event, EventMapping, open_events
from embed.records import Reject
from serve.core.settings import Settings
from serve.storage.event_log import EventLog, open_event_log

AT_ONCE = 2000
REJECTS = "events-rejects.jsonl"
Progress = Callable[[str, float, float, str], None]
"""stage, done, total, unit"""


@dataclass
class ImportReport:
    """What became of a file's records: read = stored + duplicates + rejected."""

    file: str
    read: int = 0
    stored: int = 0
    duplicates: int = 0
    rejected: int = 0
    rejects: dict[str, int] = field(default_factory=dict)


def import_events(
    settings: Settings, file: Path, mapping: Path | None = None, progress: Progress | None = None
) -> ImportReport:
    """Take a file of events into the store's log; raises what open_events raises, and Broken for the log."""
    report, codes = ImportReport(file.name), Counter[str]()
    store = open_event_log(settings)
    size = file.stat().st_size
    waiting: list[Event] = []
    try:
        with (
            open_events(file, EventMapping.load(mapping) if mapping else None) as found,
            (settings.store / REJECTS).open("wb") as rejects,
        ):
            for entry in found.entries:
                report.read += 1
                if isinstance(entry, Reject):
                    codes[entry.code] += 1
                    rejects.write(orjson.dumps(asdict(entry), default=str, option=orjson.OPT_APPEND_NEWLINE))
                    continue
                waiting.append(entry)
                if len(waiting) == AT_ONCE:
                    _keep(store, waiting, report)
                    if progress:
                        progress("events", found.position(), size, "bytes")
            _keep(store, waiting, report)
            if progress:
                progress("events", size, size, "bytes")
    finally:
        store.close()
    report.rejected, report.rejects = codes.total(), dict(codes.most_common())
    return report


def _keep(store: EventLog, waiting: list[Event], report: ImportReport) -> None:
    new = sum(store.add(waiting))
    report.stored += new
    report.duplicates += len(waiting) - new
    waiting.clear()
