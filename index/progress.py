"""The type of a progress callback."""

from collections.abc import Callable

Progress = Callable[[int, int], None]  # called with the steps done and the steps in total
