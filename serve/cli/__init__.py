"""The command line: each command calls the same functions as the service and prints their result."""

import sys

import typer

from serve.cli import campaigns, catalogue, experiments, export, operations, search, service, train
from serve.cli.terminal import app, bars, print_error, print_interruption
from serve.core.errors import EXPECTED, error_response

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ends


def main() -> None:
    """Run the `vetrina` command.

    Expected errors are one line on standard error, or with --json `{"error": ...}` on standard output. The exit code
    is 2 where the caller can do something differently, 1 where something is damaged.
    """
    json = "--json" in sys.argv[1:]
    try:
        code = app(prog_name="vetrina", standalone_mode=not json)
    except typer.TyperException as error:  # wrong usage; without --json typer prints it
        parameter = getattr(error, "param", None)
        print_error(json, "usage", error.format_message(), getattr(parameter, "name", None) or "")
        code = 2
    except EXPECTED as error:
        response = error_response(error)
        print_error(json, response.code, response.message, response.field)
        code = 2 if response.status < 500 or response.code == "missing" else 1
    except OSError as error:  # as for a store without write permission, or a full disk
        print_error(json, "os_error", str(error))
        code = 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    except SystemExit as ended:
        code = ended.code
    if code == INTERRUPTED:
        print_interruption(json)
    sys.exit(code if isinstance(code, int) else 0)


__all__ = [
    "app",
    "bars",
    "campaigns",
    "catalogue",
    "experiments",
    "export",
    "main",
    "operations",
    "search",
    "service",
    "train",
]
