"""`vetrina compact`: old impressions and answers go into files, and what is older than may be kept is deleted."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.jobs.build import one_job_at_a_time
from serve.live.online_learning import RECENT_HALF_LIVES
from serve.storage.archive import Archive
from serve.storage.erasure import replay_erasures
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog

DAY = 86_400.0
Progress = Callable[[str, float, float, str], None]


@dataclass(frozen=True)
class CompactionReport:
    """How many rows went into files, and how many were deleted for good."""

    events: int
    answers: int
    deleted: int


def compact(
    settings: Settings, days: float, keep_days: float | None = None, progress: Progress | None = None
) -> CompactionReport:
    """Move what is older than `days`, delete what is older than `keep_days`; can be killed and run again.

    Raises BadRequest where the online head still needs what would be moved, or more would be deleted than moved.
    """
    least = RECENT_HALF_LIVES * settings.online.half_life_days
    if days < least:
        raise BadRequest(
            f"days is {days:g}: the online head reads the answers of {least:g} days: move older ones", "days"
        )
    if keep_days is not None and keep_days < days:
        raise BadRequest(
            f"keep_days is {keep_days:g}, days {days:g}: keep at least the days that are not moved", "keep_days"
        )
    replay_erasures(settings)
    now = time.time()
    with one_job_at_a_time(settings.store):  # a training that reads meanwhile would miss what is being moved
        events = open_event_log(settings)
        try:
            Archive(events.database).tidy()
            moved = _all(EventLog.move, events, now - days * DAY, "events", progress)
            answers = _all(ImpressionLog.move, ImpressionLog(events.database), now - days * DAY, "answers", progress)
            deleted = 0 if keep_days is None else _forget(events, now - keep_days * DAY)
            if moved + answers + deleted:
                events.database.wipe()
        finally:
            events.close()
    return CompactionReport(moved, answers, deleted)


def _all(move: Callable[..., int], store: object, before: float, unit: str, progress: Progress | None) -> int:
    total = 0
    while moved := move(store, before):
        total += moved
        if progress:
            progress(f"move {unit}", total, total, unit)
    return total


def _forget(events: EventLog, before: float) -> int:
    """Delete what is older than a moment, in the database and in the files."""
    return (
        events.forget(before) + ImpressionLog(events.database).forget(before) + Archive(events.database).forget(before)
    )
