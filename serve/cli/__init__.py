"""The command line: each command asks the same functions as the service, and prints what a person can read."""

import sys

from rich.text import Text

from serve.cli import campaigns, catalogue, export, feedback, keys, search, service, train
from serve.cli.terminal import app, bars, err
from serve.core.errors import EXPECTED, error_response


def main() -> None:
    """The `vetrina` command: expected errors become one clear line and exit code 2 or 1."""
    try:
        app()
    except EXPECTED as error:
        found = error_response(error)
        err.print(Text.assemble(("error: ", "bold red"), found.message))
        # 2: something to do differently; 1: something is damaged.
        sys.exit(2 if found.status < 500 or found.code == "missing" else 1)
    except OSError as error:  # a store that may not be written, a disk that is full
        err.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(1)


__all__ = [
    "app",
    "bars",
    "campaigns",
    "catalogue",
    "export",
    "feedback",
    "keys",
    "main",
    "search",
    "service",
    "train",
]
