"""Catalogue versions: folders named by what they hold, written whole before they get that name."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from embed.catalogue.catalogue import Catalogue
from embed.durable import sync
from embed.errors import EmbedError

REPORT_FILE = "report.json"


@contextmanager
def arrow_file(path: Path, schema: Any) -> Iterator[Any]:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        yield writer


@contextmanager
def scratch_folder(home: Path) -> Iterator[Path]:
    """A temporary folder inside `home`; those of ingests that were killed go first."""
    for leftover in home.glob(".new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
    scratch.chmod(0o755)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(scratch: Path, target: Path) -> None:
    """Moves finished files to their folder; into one that exists (the same items once more), each by an atomic step.

    The report comes last, as it names another.
    """
    for file in scratch.iterdir():
        sync(file)
    sync(scratch)
    if target.exists():
        written = {file.name for file in scratch.iterdir()}
        for file in sorted(scratch.iterdir(), key=lambda file: file.name == REPORT_FILE):
            file.replace(target / file.name)
        for file in target.glob("edits-*.jsonl"):
            if file.name not in written:
                file.unlink()
        sync(target)
    else:
        scratch.rename(target)
    sync(target.parent)


def prune(home: Path, kept: set[str]) -> None:
    for folder in home.iterdir():
        if folder.is_dir() and folder.name not in kept | {"current", "refused"} and not folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)


def current(home: Path) -> Catalogue | None:
    """The catalogue in use; one that is missing or damaged does not stand in the way of a good one."""
    try:
        return Catalogue.open(home / "current")
    except EmbedError:
        return None
