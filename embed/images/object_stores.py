"""Reads images from object stores (s3://, gs://, az://) through fsspec, which takes keys from its own settings."""

import re
from collections.abc import Iterable
from typing import Any

from embed.errors import BadInput
from embed.images.files import make_refusal, make_too_large_refusal
from embed.images.host_throttle import HostBusy, HostThrottle

SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
"""Schemes that can be enabled, and the package that reads each. Files and http have their own, checked readers."""

_URL = re.compile(r"(?P<scheme>[a-z0-9]+)://(?P<bucket>[^/:?#]+)/[^?#]+", re.DOTALL)


class ObjectStores:
    """Reads from the enabled object stores; thread-safe."""

    def __init__(self, schemes: Iterable[str], throttle: HostThrottle, max_bytes: int) -> None:
        """Raise BadInput for an unknown store, or one whose package is not installed."""
        self._throttle, self._max_bytes = throttle, max_bytes
        self._systems: dict[str, Any] = {}
        for scheme in schemes:
            if scheme not in SCHEMES:
                raise BadInput(f"image store {scheme!r} is unknown: use {', '.join(SCHEMES)}", "image_stores")
            try:
                import fsspec

                self._systems[scheme] = fsspec.filesystem(scheme)
            except ImportError:
                raise BadInput(
                    f"image store {scheme!r} needs a package: run pip install {SCHEMES[scheme]}", "image_stores"
                ) from None

    def __contains__(self, scheme: str) -> bool:
        return scheme in self._systems

    def read(self, url: str) -> bytes:
        """Return the bytes of an object, at most `max_bytes`; raises ImageRefused."""
        match = _URL.fullmatch(url)
        if match is None:
            raise make_refusal("fetch_forbidden", url, "malformed object URL: use scheme://bucket/path")
        system = self._systems[match["scheme"]]

        def get() -> bytes:
            try:
                data: bytes = system.cat_file(url, start=0, end=self._max_bytes + 1)
            except FileNotFoundError:
                raise make_refusal("not_found", url, "the object does not exist") from None
            except PermissionError as error:
                raise make_refusal("fetch_forbidden", url, "access denied by the store") from error
            except Exception as error:  # every client has its own errors
                raise HostBusy(make_refusal("fetch_failed", url, str(error)[:200] or type(error).__name__)) from error
            return data

        data = self._throttle.call(f"{match['scheme']}://{match['bucket']}", get)
        if len(data) > self._max_bytes:
            raise make_too_large_refusal(url, self._max_bytes)
        return data
