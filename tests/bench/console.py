"""Usability of the console: runs the journeys of tests/test_console.py in Chromium, at desktop and phone size.

The figures are the number of journeys, failed journeys, errors on the browser's console, and serious or critical
violations of WCAG 2 A and AA that axe-core finds, in light and dark mode.
"""

import sys
from pathlib import Path
from typing import Any

import pytest
from report import report

TESTS = Path(__file__).parents[1] / "test_console.py"
COUNTED = ("console_errors", "axe_serious")


class Counts:
    """A pytest plugin that adds up the properties that the journeys record."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {"journeys": 0, "failed": 0} | dict.fromkeys(COUNTED, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        self.figures["journeys"] += 1
        self.figures["failed"] += report.failed
        for name, value in report.user_properties:
            self.figures[name] += value


def main() -> None:
    counts = Counts()
    pytest.main([str(TESTS), "-k", "journey", "-v"], plugins=[counts])
    if not counts.figures["journeys"]:
        sys.exit("no journey ran: install chromium, playwright and axe-core-python")
    report("console", counts.figures, seed=0, packages=("playwright", "axe-core-python"))


if __name__ == "__main__":
    main()
