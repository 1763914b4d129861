"""Logs of the service on standard error: lines of text for people, or lines of JSON for machines."""

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from serve.core.request_context import request_id


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, request id and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"request_id": current_id} if (current_id := request_id()) else {}),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    """Formats a record as time, level and message, followed by its `fields` as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        fields = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in fields.items())])


def log_config(log_format: Literal["auto", "text", "json"]) -> dict[str, Any]:
    """Return the logging configuration of a service process."""
    formatter = ("text" if sys.stderr.isatty() else "json") if log_format == "auto" else log_format
    handlers = {"stderr": {"class": "logging.StreamHandler", "formatter": formatter, "stream": "ext://sys.stderr"}}
    loggers = {
        name: {"handlers": ["stderr"], "level": "INFO", "propagate": False}
        for name in ("vetrina", "serve", "embed", "index", "uvicorn", "uvicorn.error")
    }
    # Uvicorn's access log contains paths, which may contain ids of users; serve.http.middleware.access_log replaces it.
    loggers["uvicorn.access"] = {"handlers": [], "level": "CRITICAL", "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter}, "text": {"()": TextFormatter}},
        "handlers": handlers,
        "loggers": loggers,
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }
