"""Progress reports of long jobs."""

from collections.abc import Callable

Progress = Callable[[str, float, float, str], None]
"""Called with the stage, how much of it is done, how much there is in total, and the unit (such as "items")."""

StageProgress = Callable[[int, int], None]
"""Called with how much of one stage is done and how much there is in total."""


def stage_progress(progress: Progress | None, stage: str, unit: str) -> StageProgress | None:
    """Narrow a progress report to one stage; None without a report."""
    return (lambda done, total: progress(stage, done, total, unit)) if progress else None
