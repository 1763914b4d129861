"""Logs of the service on standard error: a line of text for people, or a line of JSON for machines."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from serve.core.request_context import request_id


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields that a record brings."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"request_id": answered} if (answered := request_id()) else {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TextLines(logging.Formatter):
    """Time, level and message, then the record's fields as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        fields = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in fields.items())])


def log_config(wanted: Literal["auto", "text", "json"]) -> dict[str, Any]:
    """The logging configuration of a service process."""
    kind = ("text" if sys.stderr.isatty() else "json") if wanted == "auto" else wanted
    handlers = {"stderr": {"class": "logging.StreamHandler", "formatter": kind, "stream": "ext://sys.stderr"}}
    loggers = {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
        for name in ("vetrina", "serve", "embed", "index", "uvicorn", "uvicorn.error")
    }
    # The server's own lines of requests have paths in them, and these the ids of shoppers; see
    # serve.http.middleware.gateway.
    loggers["uvicorn.access"] = {"handlers": [], "level": "CRITICAL", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}, "text": {"()": TextLines}},
        "handlers": handlers,
        "loggers": loggers,
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }
