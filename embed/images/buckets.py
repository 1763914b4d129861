"""Images in object stores (s3://, gs://, az://) through fsspec, whose own settings and environment hold the keys."""

import re
from collections.abc import Iterable
from typing import Any

from embed.errors import BadInput
from embed.images.files import refusal, too_large
from embed.images.host_throttle import Busy, Hosts

SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""What may be switched on, and the package that reads it. Files and URLs have ways of their own, with checks."""

_URL = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<bucket>[^/:?#]+)/[^?#]+", re.DOTALL)


class Buckets:
    """Reads from the object stores that are switched on; one instance serves all threads."""

    def __init__(self, schemes: Iterable[str], hosts: Hosts, max_bytes: int) -> None:
        """Raises BadInput for a store that is not known, or whose package is not installed."""
        self._hosts, self._max_bytes = hosts, max_bytes
        self._systems: dict[str, Any] = {}
        for scheme in schemes:
            if scheme not in SCHEMES:
                raise BadInput(f"image store {scheme!r} is not known: use {', '.join(SCHEMES)}", "image_stores")
            try:
                import fsspec

                self._systems[scheme] = fsspec.filesystem(scheme)
            except ImportError:
                raise BadInput(
                    f"images in {scheme}:// need a package: pip install {SCHEMES[scheme]}", "image_stores"
                ) from None

    def __contains__(self, scheme: str) -> bool:
        return scheme in self._systems

    def read(self, url: str) -> bytes:
        """The bytes of an object, at most `max_bytes`; raises ImageRefused."""
        found = _URL.fullmatch(url)
        if found is None:
            raise refusal("fetch_forbidden", url, "an object is named scheme://bucket/path")
        system = self._systems[found["scheme"]]

        def ask() -> bytes:
            try:
                data: bytes = system.cat_file(url, start=0, end=self._max_bytes + 1)
            except FileNotFoundError:
                raise refusal("not_found", url, "there is no such object") from None
            except PermissionError as error:
                raise refusal("fetch_forbidden", url, "the store does not let us read it") from error
            except Exception as error:  # every client has errors of its own
                raise Busy(refusal("fetch_failed", url, str(error)[:200] or type(error).__name__)) from error
            return data

        data = self._hosts.ask(f"{found['scheme']}://{found['bucket']}", ask)
        if len(data) > self._max_bytes:
            raise too_large(url, self._max_bytes)
        return data
