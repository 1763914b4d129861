"""The releases folder of a store: list, open, draft, seal, activate and prune releases."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embed.durable import point, sha256, sync
from serve.core.errors import NotFound, StoreUnavailable
from serve.release.ab_test import running
from serve.release.manifest import FileSum, Manifest, name_of, read_manifest
from serve.release.release import Release


def releases_folder(store: Path) -> Path:
    return store / "releases"


def current_name(store: Path) -> str | None:
    """The name of the release that serves, or None before the first; raises Broken where `current` is no link."""
    link = releases_folder(store) / "current"
    try:
        return Path(os.readlink(link)).name
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreUnavailable(
            f"{link} is not a symbolic link ({error.strerror}): delete it, and copy stores with their links "
            f"(cp -a, rsync -a); then vetrina build --store {store} publishes anew",
            "current",
        ) from error


def open_current(store: Path) -> Release:
    """Open the release that serves; raises NotFound where there is none, Broken or Damaged where it cannot be used."""
    name = current_name(store)
    if name is None:
        raise NotFound(f"store {store} has no release yet: run vetrina build FEED --store {store}", "store")
    return open_release(store, name)


def open_release(store: Path, name: str) -> Release:
    """Open a release by name; raises NotFound where there is none such, Broken or Damaged where it cannot be used."""
    return Release(release_folder(store, name))


def release_folder(store: Path, name: str) -> Path:
    """The folder of a release; raises NotFound where there is none such."""
    if name not in release_names(store):
        raise NotFound(f"store {store} has no release {name!r}: see vetrina releases", "release")
    return releases_folder(store) / name


def release_before(store: Path) -> str:
    """The name of the newest release older than the current one; raises NotFound where there is none."""
    current = current_name(store)
    older = [name for name in release_names(store) if current is not None and name < current]
    if not older:
        raise NotFound(f"store {store} has no release before {current or 'the first'}: see vetrina releases", "release")
    return older[0]


def release_names(store: Path) -> list[str]:
    """The releases on disk, newest first, damaged ones too."""
    folders = releases_folder(store).glob("[!.]*")
    return sorted((path.name for path in folders if path.is_dir() and path.name != "current"), reverse=True)


def list_manifests(store: Path) -> list[Manifest]:
    """The manifests on disk, newest first, without those that cannot be read: the doctor names them."""
    manifests = []
    for name in release_names(store):
        with suppress(StoreUnavailable):  # also one that is being pruned this very moment
            manifests.append(read_manifest(releases_folder(store) / name))
    return manifests


@contextmanager
def draft(store: Path) -> Iterator[Path]:
    """A folder to build the next release in; it is removed unless `seal` has taken it."""
    folder = releases_folder(store)
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(".draft-*"):
        shutil.rmtree(left_over)
    path = folder / f".draft-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def seal(store: Path, folder: Path, manifest: Manifest) -> None:
    """Seal a draft with its checksums and give it its name: it is a release, and will not change.

    Sets the manifest's `release` and `files`.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest.files = {
        str(path.relative_to(folder)): FileSum(sha256=sha256(path), bytes=path.stat().st_size) for path in paths
    }
    data = manifest.model_dump_json(indent=2, exclude={"release"}).encode()
    manifest.release = name_of(manifest.created_at, data)
    (folder / "manifest.json").write_bytes(data)
    for path in [*paths, folder / "manifest.json", *(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(path)
    final = releases_folder(store) / manifest.release
    folder.rename(final)
    sync(final.parent)


def make_current(store: Path, name: str) -> None:
    """Point `current` at a release in one atomic step; where Milvus has the rows, also the aliases of its spaces."""
    with suppress(StoreUnavailable):  # then servers refuse it, and go on with the one before
        spaces = read_manifest(releases_folder(store) / name).indexes
        for entry in (entry for entry in spaces.values() if entry.collection):
            from index import milvus_index

            # For other clients, and first: a server follows the link, and goes by the collection's own name.
            milvus_index.publish(entry.uri, entry.collection.rpartition("_")[0], entry.collection)
    point(releases_folder(store) / "current", name)


def prune(store: Path, keep: int) -> None:
    """Remove all releases but the newest `keep`, the current one and one that an A/B test tries."""
    folder = releases_folder(store)
    tried = None
    with suppress(StoreUnavailable):  # then servers do without the test
        tried = running(store)
    for name in release_names(store)[keep:]:
        if name not in (current_name(store), tried and tried.release):
            shutil.rmtree(folder / name)
    entries = [entry for manifest in list_manifests(store) for entry in manifest.indexes.values() if entry.collection]
    kept = {entry.collection for entry in entries}
    for uri, prefix in {(entry.uri, entry.collection.rpartition("_")[0]) for entry in entries}:
        from index import milvus_index

        milvus_index.prune(uri, f"{prefix}_", kept)
    for stray in folder.glob(".current-*"):
        stray.unlink()
