"""The release: everything a request needs, made together, checksummed, immutable; `current` names one.

    STORE/releases/
      current -> 20260102T030405678-1a2b3c4d
      20260102T030405678-1a2b3c4d/   when it was made, and the hash of its manifest
        manifest.json          lineage, counts, fingerprints, recall, checksum of every other file
        items.arrow            the catalogue; an item's number is its row
        ids.arrow ids_order.npy
        alignment/             what words and photos pass through into the image space (see embed.alignment)
        spaces/NAME/           an index (see index.snapshot); `tower` is of the vectors that the towers give the items
        words/                 what items say, by terms (see serve.words.lexicon)
        behaviour/             counts, towers, blend, scorer (see serve.behaviour)
        reference.json         what it showed when it was made (see serve.rank.drift), where it has a scorer

A draft is built in a folder of its own and renamed when complete; `current` is moved by one atomic rename after that. A
kill at any instant leaves the release before serving.
"""

import copy
import ctypes
import math
import mmap
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embed.alignment.alignment import Alignment
from embed.catalogue import Catalogue, Item
from embed.durable import point, sha256, sync
from index.contract import VectorIndex
from index.ids import ItemIds, open_ids
from index.selection import Selection, Selections
from index.snapshot import open_index, open_sample
from serve.behaviour import Behaviour
from serve.errors import Broken, NotFound
from serve.experiment import running
from serve.filters import Filter
from serve.manifest import FileSum, Manifest, check_files, name_of, read_manifest
from serve.rank.drift import Reference
from serve.rank.scorer import Scorer
from serve.recommend.sources import TOWER
from serve.words.facets import Facet, facet_of
from serve.words.lexicon import WORDS, Lexicon

ITEMS_FILE = "items.arrow"
REFERENCE_FILE = "reference.json"
ALIGNMENT = "alignment"
KEPT_ITEMS = 4_000


class Release:
    """An opened release: memory-mapped, checked against its manifest."""

    def __init__(self, folder: Path, manifest: Manifest | None = None) -> None:
        """Open a release, or with a `manifest` that is not written yet a draft.

        Raises Broken or Damaged where it cannot be used.
        """
        self._folder = folder.resolve()
        self.manifest = read_manifest(folder) if manifest is None else manifest
        check_files(folder, self.manifest)
        self.catalogue = Catalogue.open(folder)
        # Reading a row takes some 40 µs: what is answered often is kept.
        self.item: Callable[[int], Item] = lru_cache(KEPT_ITEMS)(self.catalogue.item)
        self.ids: ItemIds = open_ids(folder)
        indexes: dict[str, VectorIndex] = {name: open_index(folder / "spaces" / name) for name in self.manifest.indexes}
        self.behaviour = Behaviour.open(folder / "behaviour")
        self.alignment = Alignment.open(folder / ALIGNMENT) if self.manifest.alignment else None
        self.words = Lexicon(folder / WORDS)
        counts = {
            ITEMS_FILE: len(self.catalogue),
            "ids.arrow": len(self.ids),
            "behaviour": len(self.behaviour.popularity),
            WORDS: self.words.index.items,
        } | {f"spaces/{name}": index.items for name, index in indexes.items()}
        for file, count in counts.items():
            if count != self.manifest.items:
                raise Broken(f"{folder / file} is of {count} items, the release has {self.manifest.items}", file)
        for name, index in indexes.items():
            expected = self.manifest.indexes[name].fingerprint
            if name == TOWER and self.behaviour.facts.towers != expected:
                expected = f"{self.behaviour.facts.towers} in behaviour and {expected}"
            if index.space.fingerprint != expected:
                raise Broken(
                    f"the index of space {name} was made by encoder {index.space.fingerprint}, the manifest says "
                    f"{expected}",
                    f"spaces/{name}",
                )

        # What fusion holds scores against where not every item is scored.
        self.samples = {name: open_sample(folder / "spaces" / name) for name in indexes}
        self.tower = indexes.pop(TOWER, None)
        self.spaces = indexes
        self._selections = Selections()
        self._attribute_numbers: dict[str, NDArray[np.float32]] = {}
        self._facets: dict[str, Facet] = {}

    @property
    def name(self) -> str:
        return self.manifest.release

    @cached_property
    def reference(self) -> Reference | None:
        """What was shown when it was made, None where that is not known."""
        path = self._folder / REFERENCE_FILE
        return Reference.model_validate_json(path.read_bytes()) if path.exists() else None

    @property
    def known_until(self) -> float:
        """The first moment of which it knows nothing, in epoch seconds: it was made of what shoppers did before."""
        scorer = self.behaviour.scorer
        counted_until = math.nextafter(self.behaviour.facts.counted_at, math.inf)
        return max(counted_until, 0.0 if scorer is None else scorer.facts.learned_until)

    def with_scorer(self, scorer: Scorer) -> "Release":
        """The same release, but for another scorer."""
        other = copy.copy(self)
        other.behaviour = replace(self.behaviour, scorer=scorer)
        return other

    def let_go(self) -> None:
        """Give back the memory that files of the release are mapped in; who reads them still maps what is read again.

        So two releases do not lie in memory together while the last requests to the one before end.
        """
        libc = ctypes.CDLL(None)
        with suppress(OSError, AttributeError), Path("/proc/self/maps").open("rb") as mappings:  # only on Linux
            for mapping in mappings:
                if b" r--" in mapping and bytes(self._folder) in mapping:
                    start, end = (int(bound, 16) for bound in mapping.split(None, 1)[0].split(b"-"))
                    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)

    @cached_property
    def has_prices(self) -> bool:
        """Whether any item has a price."""
        prices = self.catalogue.column("price")
        return bool(prices.null_count < len(prices))

    def attribute_numbers(self, name: str) -> NDArray[np.float32]:
        """An attribute of all items as a number, [items], NaN where there is none; read once and kept."""
        if name not in self._attribute_numbers:
            pairs = (pair for chunk in self.catalogue.column("attributes").chunks for pair in chunk.to_pylist())
            self._attribute_numbers[name] = np.array(
                [number_in(dict(of or ()).get(name, ())) for of in pairs], np.float32
            )
        return self._attribute_numbers[name]

    def facet(self, name: str) -> Facet:
        """The values of a column or attribute, read once and kept; raises BadRequest where no item has any."""
        if name not in self._facets:
            self._facets[name] = facet_of(self.catalogue, name)
        return self._facets[name]

    def selection(self, filter_: Filter) -> Selection:
        """The items that pass a filter, kept for the next request that asks by it."""
        return self._selections.get(
            filter_.key, lambda: Selection(filter_.mask(self.catalogue.table), filter_.expression)
        )


def number_in(values: Sequence[str]) -> float:
    """The first of an attribute's values as a number, NaN where there is none or it is not one."""
    try:
        number = float(values[0]) if values else math.nan
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


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
        raise Broken(
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
        with suppress(Broken):  # also one that is being pruned this very moment
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
    with suppress(Broken):  # then servers refuse it, and go on with the one before
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
    with suppress(Broken):  # then servers do without the test
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
