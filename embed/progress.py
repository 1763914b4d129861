"""The type of progress callbacks."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the units done and the total; the unit (items, steps, bytes) depends on the job."""
