"""Images in a folder, and in tar shards there (the layout of webdataset): `shards/0001.tar/000123.jpg` is a member.

Nothing is read outside the folder, nor anything but regular files.
"""

import os
import re
import stat
import tarfile
from functools import lru_cache
from pathlib import Path

from embed.images.decode import ImageRefused, RefusalCode

_MEMBER = re.compile(r"(?P<shard>.+?\.tar)/(?P<member>.+)", re.DOTALL)
KEPT_SHARDS = 64  # of which it is known where each member lies


class Folder:
    """A folder of images; safe in several threads."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root.resolve()
        self._max_bytes = max_bytes
        self._members = lru_cache(KEPT_SHARDS)(_members)

    def read(self, reference: str) -> bytes:
        """The bytes of a file or of a shard's member; raises ImageRefused."""
        try:
            path = self._inside(reference)
            if not path.exists() and (found := _MEMBER.fullmatch(reference)):
                return self._read_member(reference, self._inside(found["shard"]), found["member"])
            with open(path, "rb", opener=_open_at_once) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise refusal("unreadable", reference, "it is not a regular file")
                return self._checked(reference, file.read(self._max_bytes + 1))
        except FileNotFoundError:
            raise refusal("not_found", reference, "there is no such file in the image folder") from None
        except (OSError, ValueError, RuntimeError) as error:  # names with NUL or half characters; loops of links
            reason = getattr(error, "strerror", None) or str(error)
            raise refusal("unreadable", reference, reason) from error

    def _inside(self, reference: str) -> Path:
        # Resolved first, so that neither .. nor a link leads out. Whoever can swap folders inside the root between
        # here and open() owns it anyway; a swapped last part is caught by O_NOFOLLOW.
        path = (self._root / reference).resolve()
        if not path.is_relative_to(self._root):
            raise refusal("outside_root", reference, "it leads outside the image folder")
        return path

    def _read_member(self, reference: str, shard: Path, member: str) -> bytes:
        state = shard.stat()
        if not stat.S_ISREG(state.st_mode):
            raise refusal("unreadable", reference, f"{shard.name} is not a regular file")
        try:
            place = self._members(shard, state.st_mtime_ns, state.st_size).get(member)
        except (tarfile.TarError, EOFError) as error:
            raise refusal("unreadable", reference, f"{shard.name} is no plain tar file ({error})") from error
        if place is None:
            raise refusal("not_found", reference, f"{shard.name} has no such member")
        start, size = place
        with open(shard, "rb", opener=_open_at_once) as file:
            data = os.pread(file.fileno(), min(size, self._max_bytes + 1), start)
        if len(data) < min(size, self._max_bytes + 1):
            raise refusal("unreadable", reference, f"{shard.name} breaks off before its end")
        return self._checked(reference, data)

    def _checked(self, reference: str, data: bytes) -> bytes:
        if len(data) > self._max_bytes:
            raise too_large(reference, self._max_bytes)
        return data


def _members(shard: Path, _changed: int, _size: int) -> dict[str, tuple[int, int]]:
    """Where each file of a tar lies: its start and its size. Read once, as a tar has no table of its own."""
    found: dict[str, tuple[int, int]] = {}
    with open(shard, "rb", opener=_open_at_once) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        try:
            for entry in tar:
                if entry.isreg():
                    found[entry.name.removeprefix("./")] = (entry.offset_data, entry.size)
        except tarfile.ReadError:
            pass  # it breaks off: what came before is as good as ever
    return found


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe must not wait for its writer


def refusal(code: RefusalCode, reference: str, reason: str) -> ImageRefused:
    """A refusal that names the reference, cut where it is long."""
    return ImageRefused(code, f"{reference[:200]!r}: {reason}")


def too_large(reference: str, max_bytes: int) -> ImageRefused:
    """The refusal of what has more bytes than are read."""
    return refusal("too_many_bytes", reference, f"it has more than {max_bytes} bytes")
