"""Logs an error that comes back at every poll only once."""

import logging

from serve.core.errors import error_response

_log = logging.getLogger("vetrina")


class RepeatedErrors:
    """Logs an error of one kind again only when its message changes."""

    def __init__(self, text: str) -> None:
        self._text, self._last = text, ""

    def report(self, error: Exception, *args: object) -> str:
        """Log an expected error as `text % args: message`, unless the last message was the same; return the message."""
        message = error_response(error).message
        if message != self._last:
            self._last = message
            _log.error(f"{self._text}: %s", *args, message)
        return message

    def clear(self) -> None:
        """Forget the last error: the same one is logged again when it comes back."""
        self._last = ""
