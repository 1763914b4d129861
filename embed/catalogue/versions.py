"""Versions of the catalogue: folders named by their content, complete before they get that name."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from embed.catalogue.catalogue import Catalogue
from embed.durable import exclusive_lock, move_into_place, sync
from embed.errors import BadInput, EmbedError

REPORT_FILE = "report.json"


def lock_catalogue(home: Path) -> AbstractContextManager[None]:
    """Lock the catalogue for writing; raises BadInput if another process writes to it."""
    return exclusive_lock(home / ".lock", BadInput(f"another ingest is writing to {home}: wait until it ends", "store"))


@contextmanager
def arrow_file(path: Path, schema: Any) -> Iterator[Any]:
    """Open an Arrow file for writing record batches."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        yield writer


@contextmanager
def scratch_folder(home: Path) -> Iterator[Path]:
    """Make a temporary folder inside `home`, after removing those of ingests that were killed."""
    for leftover in home.glob(".new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
    scratch.chmod(0o755)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish(scratch: Path, target: Path) -> None:
    """Move a folder of finished files to `target` in one atomic step.

    If `target` exists (it then has the same items), the files are moved one by one, the report last, because it refers
    to another file.
    """
    if not target.exists():
        for file in scratch.iterdir():
            sync(file)
        move_into_place(scratch, target)
        return
    files = sorted(scratch.iterdir(), key=lambda file: file.name == REPORT_FILE)
    for file in files:
        move_into_place(file, target / file.name)
    names = {file.name for file in files}
    for file in target.glob("edits-*.jsonl"):
        if file.name not in names:
            file.unlink()
    sync(target)


def prune(home: Path, keep: set[str]) -> None:
    """Delete all versions except the named ones."""
    for folder in home.iterdir():
        if folder.is_dir() and folder.name not in keep | {"current", "refused"} and not folder.name.startswith("."):
            shutil.rmtree(folder, ignore_errors=True)


def current(home: Path) -> Catalogue | None:
    """Open the current catalogue. A missing or damaged one gives None, so that a good one can replace it."""
    try:
        return Catalogue.open(home / "current")
    except EmbedError:
        return None
