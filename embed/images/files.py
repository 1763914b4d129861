"""Reads images from a folder and from tar shards in it (webdataset layout: `shards/0001.tar/000123.jpg`).

Only regular files inside the folder are read.
"""

import os
import re
import stat
import tarfile
from functools import lru_cache
from pathlib import Path

from embed.images.decode import ImageRefused, RefusalCode

_MEMBER = re.compile(r"(?P<shard>.+?\.tar)/(?P<member>.+)", re.DOTALL)
MAX_CACHED_SHARDS = 64  # whose tables of members are kept in memory


class ImageFolder:
    """A folder of images; thread-safe."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root.resolve()
        self._max_bytes = max_bytes
        self._members = lru_cache(MAX_CACHED_SHARDS)(_members)

    def read(self, reference: str) -> bytes:
        """Return the bytes of a file or of a shard's member; raises ImageRefused."""
        try:
            path = self._inside(reference)
            if not path.exists() and (match := _MEMBER.fullmatch(reference)):
                return self._read_member(reference, self._inside(match["shard"]), match["member"])
            with open(path, "rb", opener=_open_without_waiting) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise make_refusal("unreadable", reference, "not a regular file")
                return self._checked(reference, file.read(self._max_bytes + 1))
        except FileNotFoundError:
            raise make_refusal("not_found", reference, "the image folder has no such file") from None
        except (OSError, ValueError, RuntimeError) as error:  # names with NUL or unpaired surrogates; loops of links
            reason = getattr(error, "strerror", None) or str(error)
            raise make_refusal("unreadable", reference, reason) from error

    def _inside(self, reference: str) -> Path:
        # Resolved first, so that neither .. nor a link leads out. An attacker that can swap folders inside the root
        # between here and open() owns it anyway; O_NOFOLLOW catches a swapped last part.
        path = (self._root / reference).resolve()
        if not path.is_relative_to(self._root):
            raise make_refusal("outside_root", reference, "it is outside the image folder")
        return path

    def _read_member(self, reference: str, shard: Path, member: str) -> bytes:
        state = shard.stat()
        if not stat.S_ISREG(state.st_mode):
            raise make_refusal("unreadable", reference, f"{shard.name} is not a regular file")
        try:
            location = self._members(shard, state.st_mtime_ns, state.st_size).get(member)
        except (tarfile.TarError, EOFError) as error:
            raise make_refusal(
                "unreadable", reference, f"{shard.name} is not an uncompressed tar file ({error})"
            ) from error
        if location is None:
            raise make_refusal("not_found", reference, f"{shard.name} has no such member")
        start, size = location
        with open(shard, "rb", opener=_open_without_waiting) as file:
            data = os.pread(file.fileno(), min(size, self._max_bytes + 1), start)
        if len(data) < min(size, self._max_bytes + 1):
            raise make_refusal("unreadable", reference, f"{shard.name} is truncated")
        return self._checked(reference, data)

    def _checked(self, reference: str, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise make_too_large_refusal(reference, self._max_bytes)
        return data


def _members(shard: Path, _changed: int, _size: int) -> dict[str, tuple[int, int]]:
    """Return start and size of each file in a tar. Cached, because a tar has no table of contents."""
    locations: dict[str, tuple[int, int]] = {}
    with open(shard, "rb", opener=_open_without_waiting) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        try:
            for entry in tar:
                if entry.isreg():
                    locations[entry.name.removeprefix("./")] = (entry.offset_data, entry.size)
        except tarfile.ReadError:
            pass  # truncated: the members before are intact
    return locations


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # do not wait for the writer of a pipe


def make_refusal(code: RefusalCode, reference: str, reason: str) -> ImageRefused:
    """Make a refusal that names the reference, shortened if it is long."""
    return ImageRefused(code, f"{reference[:200]!r}: {reason}")


def make_too_large_refusal(reference: str, max_bytes: int) -> ImageRefused:
    """Make the refusal of an image with more bytes than allowed."""
    return make_refusal("too_many_bytes", reference, f"more than {max_bytes} bytes: send a smaller image")
