"""The release: everything a request needs, made together, checksummed, immutable; `current` names one.

    STORE/releases/
      current -> 20260102T030405678-1a2b3c4d
      20260102T030405678-1a2b3c4d/   when it was made, and the hash of its manifest
        manifest.json          lineage, counts, fingerprints, recall, checksum of every other file
        items.arrow            the catalogue; an item's number is its row
        ids.arrow ids_order.npy
        alignment/             what words and photos pass through into the image space (see embed.alignment)
        spaces/NAME/           an index (see index.snapshot); `tower` is of the vectors that the towers give the items
        words/                 what items say, by terms (see serve.search.vocabulary)
        behaviour/             counts, towers, blend, scorer (see serve.release.behaviour_model)
        reference.json         drift reference (serve.recommend.ranking.drift), if there is a scorer

A draft is built in a folder of its own and renamed when complete; `current` is moved by one atomic rename after that. A
kill at any instant leaves the release before serving.
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
from index.ids import ItemIds, open_ids
from index.protocol import VectorIndex
from index.selection import Selection, Selections
from index.snapshot import open_index, open_sample
from serve.core.errors import StoreUnavailable
from serve.recommend.ranking.drift import Reference
from serve.recommend.ranking.scorer import Scorer
from serve.recommend.retrieval.retrievers import TOWER
from serve.release.behaviour_model import Behaviour
from serve.release.manifest import Manifest, check_files, read_manifest
from serve.search.facets import Facet, facet_of
from serve.search.filters import Filter
from serve.search.vocabulary import FOLDER as VOCABULARY_FOLDER
from serve.search.vocabulary import KEYWORDS, SearchVocabulary

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
                    f"{folder / file} is of {count} items, the release has {self.manifest.items}", file
                )
        for name, index in indexes.items():
            expected = self.manifest.indexes[name].fingerprint
            if name == TOWER and self.behaviour.facts.towers != expected:
                expected = f"{self.behaviour.facts.towers} in behaviour and {expected}"
            if index.space.fingerprint != expected:
                raise StoreUnavailable(
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
    def history_until(self) -> float:
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
