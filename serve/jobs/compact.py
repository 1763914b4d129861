"""The job `vetrina compact`: archive old impressions, and delete data beyond its retention."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serve.core.errors import BadRequest
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.core.units import DAY
from serve.jobs.lock import one_job_at_a_time
from serve.live.online_learning import RECENT_HALF_LIVES
from serve.storage.archive import Archive
from serve.storage.erasure import replay_erasures
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog


@dataclass(frozen=True)
class CompactionReport:
    """How many rows were moved into files, how many were deleted, and which unknown files were moved aside."""

    events: int
    impressions: int
    deleted: int
    unknown_files: Sequence[str] = ()


def compact(
    settings: Settings, days: float, keep_days: float | None = None, progress: Progress | None = None
) -> CompactionReport:
    """Archive old impressions and delete older data; can be killed and run again.

    Args:
        settings: the store.
        days: age in days from which impressions and logged responses move into files.
        keep_days: age in days from which events, responses and files are deleted; None keeps all.
        progress: called after each file.

    Raises:
        BadRequest: online learning still needs what would be moved, or rows would be deleted before they are moved.
        WrongDatabase: the database belongs to another store.
    """
    min_days = RECENT_HALF_LIVES * settings.online.half_life_days
    if days < min_days:
        raise BadRequest(f"invalid days {days:g}: online learning reads the last {min_days:g} days: use more", "days")
    if keep_days is not None and keep_days < days:
        raise BadRequest(
            f"invalid keep_days {keep_days:g}: smaller than days {days:g}: use at least as many", "keep_days"
        )
    replay_erasures(settings)
    now = time.time()
    with one_job_at_a_time(settings.store):  # a training that reads meanwhile would miss the rows that are moved
        events = open_event_log(settings)
        impressions, archive = ImpressionLog(events.database), Archive(events.database)
        try:
            unknown_files = archive.tidy()
            moved_events = _archive_all(events.archive_before, now - days * DAY, "events", progress)
            moved_impressions = _archive_all(impressions.archive_before, now - days * DAY, "impressions", progress)
            deleted = 0
            if keep_days is not None:
                oldest = now - keep_days * DAY
                deleted = (
                    events.delete_before(oldest) + impressions.delete_before(oldest) + archive.delete_before(oldest)
                )
            if moved_events + moved_impressions + deleted:
                events.database.purge()
        finally:
            events.close()
    return CompactionReport(moved_events, moved_impressions, deleted, unknown_files)


def _archive_all(archive_before: Callable[[float], int], before: float, unit: str, progress: Progress | None) -> int:
    total = 0
    while moved := archive_before(before):
        total += moved
        if progress:
            progress(f"archive {unit}", total, total, unit)
    return total
