"""The releases folder of a store: list, open, draft, seal, activate and prune releases."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from embed.durable import replace_link, sha256, sync
from serve.core.errors import NotFound, StoreUnavailable
from serve.release.ab_test import running
from serve.release.manifest import FileSum, Manifest, name_of, read_manifest
from serve.release.release import Release


def releases_folder(store: Path) -> Path:
    """Return the folder of all releases."""
    return store / "releases"


def current_name(store: Path) -> str | None:
    """Return the active release's name, None before the first; raises StoreUnavailable if `current` is not a link."""
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
    """Open the active release; raises NotFound if there is none, StoreUnavailable or Damaged if it cannot be used."""
    name = current_name(store)
    if name is None:
        raise NotFound(f"store {store} has no release yet: run vetrina build FEED --store {store}", "store")
    return open_release(store, name)


def open_release(store: Path, name: str) -> Release:
    """Open a release by name; raises NotFound for an unknown name, StoreUnavailable or Damaged if it cannot be used."""
    return Release(release_folder(store, name))


def release_folder(store: Path, name: str) -> Path:
    """Return the folder of a release; raises NotFound for an unknown name."""
    if name not in release_names(store):
        raise NotFound(f"store {store} has no release {name!r}: see vetrina releases", "release")
    return releases_folder(store) / name


def release_before(store: Path) -> str:
    """Return the name of the newest release before the active one; raises NotFound if there is none."""
    current = current_name(store)
    older = [name for name in release_names(store) if current is not None and name < current]
    if not older:
        raise NotFound(f"store {store} has no release before {current or 'the first'}: see vetrina releases", "release")
    return older[0]


def release_names(store: Path) -> list[str]:
    """Return the names of the releases on disk, newest first, including damaged ones."""
    folders = releases_folder(store).glob("[!.]*")
    return sorted((path.name for path in folders if path.is_dir() and path.name != "current"), reverse=True)


def list_manifests(store: Path) -> list[Manifest]:
    """Return the manifests on disk, newest first, without unreadable ones, which `vetrina doctor` lists."""
    manifests = []
    for name in release_names(store):
        with suppress(StoreUnavailable):  # also one that is being pruned this very moment
            manifests.append(read_manifest(releases_folder(store) / name))
    return manifests


@contextmanager
def draft(store: Path) -> Iterator[Path]:
    """Yield a folder to build the next release in; it is removed unless `seal` renames it."""
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
    """Add checksums to a draft and rename it: from then on it is a release, and does not change.

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
    """Point `current` at a release in one atomic step, and in Milvus also the aliases of its spaces."""
    with suppress(StoreUnavailable):  # then servers refuse it, and keep the previous one
        spaces = read_manifest(releases_folder(store) / name).indexes
        for entry in (entry for entry in spaces.values() if entry.collection):
            from index import milvus_index

            # For other clients, and first: a server follows the link, and uses the collection's own name.
            milvus_index.set_alias(entry.uri, entry.collection.rpartition("_")[0], entry.collection)
    replace_link(releases_folder(store) / "current", name)


def prune(store: Path, keep: int) -> None:
    """Remove all releases except the newest `keep`, the active one and that of an A/B test."""
    folder = releases_folder(store)
    tried = None
    with suppress(StoreUnavailable):  # then servers ignore the test
        tried = running(store)
    for name in release_names(store)[keep:]:
        if name not in (current_name(store), tried and tried.release):
            shutil.rmtree(folder / name)
    entries = [entry for manifest in list_manifests(store) for entry in manifest.indexes.values() if entry.collection]
    kept = {entry.collection for entry in entries}
    for uri, prefix in {(entry.uri, entry.collection.rpartition("_")[0]) for entry in entries}:
        from index import milvus_index

        milvus_index.prune_collections(uri, f"{prefix}_", kept)
    for stray in folder.glob(".current-*"):
        stray.unlink()
