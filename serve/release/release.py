"""The release: everything a request needs, built together, checksummed, immutable; `current` names the active one.

    STORE/releases/
      current -> 20260102T030405678-1a2b3c4d
      20260102T030405678-1a2b3c4d/   the time of its build, and the hash of its manifest
        manifest.json          lineage, counts, fingerprints, recall, checksum of every other file
        items.arrow            the catalogue; an item index is its row
        ids.arrow ids_order.npy
        alignment/             adapters of texts and photos to the image space (see embed.alignment)
        spaces/NAME/           an index (see index.index_folder); `tower` has the towers' item vectors
        words/                 the terms of the items (see serve.search.vocabulary)
        behaviour/             counts, towers, score model, scorer (see serve.release.behaviour_model)
        reference.json         the drift reference (serve.recommend.ranking.drift), with a scorer

A draft is built in a folder of its own and renamed when it is complete; after that one atomic rename moves `current`.
If the process is killed at any time, the previous release keeps serving.
"""

import copy
import ctypes
import math
import mmap
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embed.alignment.alignment import Alignment
from embed.catalogue import Catalogue, Item
from index.index_folder import open_index, open_sample
from index.item_ids import ItemIds, open_item_ids
from index.item_mask import ItemMask, ItemMaskCache
from index.protocol import VectorIndex
from serve.core.errors import StoreUnavailable
from serve.recommend.ranking.drift import DriftReference
from serve.recommend.ranking.scorer import Scorer
from serve.recommend.retrieval.retriever import TOWER
from serve.release.behaviour_model import BehaviourModel
from serve.release.manifest import Manifest, check_files, read_manifest
from serve.search.facets import Facet, build_facet
from serve.search.filters import Filter
from serve.search.vocabulary import FOLDER as VOCABULARY_FOLDER
from serve.search.vocabulary import KEYWORDS, SearchVocabulary

ITEMS_FILE = "items.arrow"
REFERENCE_FILE = "reference.json"
ALIGNMENT = "alignment"
MAX_CACHED_ITEMS = 4_000


class Release:
    """An opened release: memory-mapped, checked against its manifest."""

    def __init__(self, folder: Path, manifest: Manifest | None = None) -> None:
        """Open a release, or a draft with its `manifest`, which is not written yet.

        Raises StoreUnavailable or Damaged if it cannot be used.
        """
        self._folder = folder.resolve()
        self.manifest = read_manifest(folder) if manifest is None else manifest
        check_files(folder, self.manifest)
        self.catalogue = Catalogue.open(folder)
        # Reading a row takes some 40 µs: items that are returned often are cached.
        self.item: Callable[[int], Item] = lru_cache(MAX_CACHED_ITEMS)(self.catalogue.item)
        self.ids: ItemIds = open_item_ids(folder)
        indexes: dict[str, VectorIndex] = {name: open_index(folder / "spaces" / name) for name in self.manifest.indexes}
        self.behaviour = BehaviourModel.open(folder / "behaviour")
        self.alignment = Alignment.open(folder / ALIGNMENT) if self.manifest.alignment else None
        self.words = SearchVocabulary(folder / VOCABULARY_FOLDER)
        counts = {
            ITEMS_FILE: len(self.catalogue),
            "ids.arrow": len(self.ids),
            "behaviour": len(self.behaviour.popularity),
            KEYWORDS: self.words.index.items,
        } | {f"spaces/{name}": index.items for name, index in indexes.items()}
        for file, count in counts.items():
            if count != self.manifest.items:
                raise StoreUnavailable(
                    f"{folder / file} has {count} items, the release has {self.manifest.items}: build again", file
                )
        for name, index in indexes.items():
            expected = self.manifest.indexes[name].fingerprint
            if name == TOWER and self.behaviour.metadata.towers != expected:
                expected = f"{self.behaviour.metadata.towers} in behaviour and {expected}"
            if index.space.fingerprint != expected:
                raise StoreUnavailable(
                    f"the index of space {name} was built by encoder {index.space.fingerprint}, the manifest has "
                    f"{expected}",
                    f"spaces/{name}",
                )

        # What fusion compares scores with, if not every item is scored.
        self.samples = {name: open_sample(folder / "spaces" / name) for name in indexes}
        self.tower = indexes.pop(TOWER, None)
        self.spaces = indexes
        self._selections = ItemMaskCache()
        self._attribute_numbers: dict[str, NDArray[np.float32]] = {}
        self._facets: dict[str, Facet] = {}

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.manifest.release

    @cached_property
    def reference(self) -> DriftReference | None:
        """What was shown when it was built; None if that is unknown."""
        path = self._folder / REFERENCE_FILE
        return DriftReference.model_validate_json(path.read_bytes()) if path.exists() else None

    @property
    def history_until(self) -> float:
        """When the events that it was built from end, epoch seconds; it knows only events before."""
        scorer = self.behaviour.scorer
        counted_until = math.nextafter(self.behaviour.metadata.counted_at, math.inf)
        return max(counted_until, 0.0 if scorer is None else scorer.metadata.learned_until)

    def with_scorer(self, scorer: Scorer) -> "Release":
        """Return the same release with another scorer."""
        other = copy.copy(self)
        other.behaviour = replace(self.behaviour, scorer=scorer)
        return other

    def let_go(self) -> None:
        """Give back the memory of mapped files. Later reads map them again.

        So two releases do not share the memory while the last requests to the previous one end.
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
        """Return an attribute of all items as a number, [items]; NaN for none. Cached."""
        if name not in self._attribute_numbers:
            pairs = (pair for chunk in self.catalogue.column("attributes").chunks for pair in chunk.to_pylist())
            self._attribute_numbers[name] = np.array(
                [number_in(dict(of or ()).get(name, ())) for of in pairs], np.float32
            )
        return self._attribute_numbers[name]

    def facet(self, name: str) -> Facet:
        """Return the values of a column or attribute; raises BadRequest if no item has any. Cached."""
        if name not in self._facets:
            self._facets[name] = build_facet(self.catalogue, name)
        return self._facets[name]

    def selection(self, filter_: Filter) -> ItemMask:
        """Return the items that pass a filter; cached for the next request with it."""
        return self._selections.get(
            filter_.key, lambda: ItemMask(filter_.mask(self.catalogue.table), filter_.expression)
        )


def number_in(values: Sequence[str]) -> float:
    """Return the first value of an attribute as a number; NaN if there is none or it is not a number."""
    try:
        number = float(values[0]) if values else math.nan
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
