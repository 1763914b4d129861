"""Files that survive a kill: synced to disk, checked by hash, links moved in one step, one writer at a time."""

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells that a file has changed: when and how long it is, and which; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def point(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` in one atomic step, whether or not it was there before."""
    fresh = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    fresh.symlink_to(target)
    fresh.replace(link)
    sync(link.parent)


@contextmanager
def alone(lock: Path, taken: Exception) -> Iterator[None]:
    """Hold the lock file, or raise `taken` where another process does; the lock dies with its process."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise taken from None
        yield


def write_file(path: Path, data: bytes) -> None:
    """Write a file in one atomic step, in place of one that may be there; on disk when this returns."""
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    fresh.write_bytes(data)
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def write_folder(parent: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder `name` under `parent`; it is there whole or not at all, and stays as it is if it is."""
    folder = parent / name
    if folder.is_dir():
        return folder
    fresh = parent / f".{name}"
    fresh.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        (fresh / file).write_bytes(data)
        sync(fresh / file)
    sync(fresh)
    fresh.rename(folder)
    sync(parent)
    return folder
