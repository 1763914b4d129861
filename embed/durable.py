"""Durable files: atomic replacement, sync to disk, hashes, and locks that allow one writer at a time."""

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
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> tuple[int, int, int] | None:
    """Return time of change, size and inode of a file, which differ once the file has changed; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def replace_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` in one atomic step, whether or not it exists."""
    fresh = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    fresh.symlink_to(target)
    fresh.replace(link)
    sync(link.parent)


@contextmanager
def exclusive_lock(lock: Path, error: Exception) -> Iterator[None]:
    """Hold a lock file, or raise `error` if another process holds it. The lock ends with its process."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error from None
        yield


def move_into_place(fresh: Path, target: Path) -> None:
    """Move a complete file, or a folder with synced files, to `target` in one atomic step.

    A file at `target` is replaced; both must be on one file system. The move is on disk when this returns.
    """
    sync(fresh)
    fresh.replace(target)
    sync(target.parent)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a new file; if the block succeeds, it replaces `path` in one atomic step."""
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        yield fresh
        move_into_place(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write or replace a file in one atomic step; it is on disk when this returns."""
    with atomic_path(path) as fresh:
        fresh.write_bytes(data)


def write_folder(parent: Path, name: str, files: Mapping[str, bytes]) -> Path:
    """Write files into the folder `name` under `parent`, all or none. An existing folder stays as it is."""
    folder = parent / name
    if folder.is_dir():
        return folder
    fresh = parent / f".{name}"
    fresh.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        (fresh / file).write_bytes(data)
        sync(fresh / file)
    move_into_place(fresh, folder)
    return folder
