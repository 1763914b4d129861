"""Compares the encoders of a release with those of its parent, on tests that the shop's own catalogue and events hold.

A space whose encoder changed is measured twice, with the vectors of both encoders for the same contents. Each test
ranks all items for its queries, and compares reciprocal rank and recall@10 of the first right result case by case:

- **photos**: a photo finds another photo of its product, be it of the item or of a variant;
- **names**: the name of a product finds its photo, through a linear map that was fitted to other products (see
  serve.evaluation.text_probe);
- **descriptions**: the name of a product finds its description;
- **next items**: the item that a user chose last but one finds the item that the user chose last.

Variants of a product are one case (see embed.alignment.pairs). The alignments that the releases serve are not used, as
they are trained on all products. Users choose among what they are shown, which favours the encoder that chose it.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embed.alignment.adapter_training import MIN_PRODUCTS
from embed.alignment.pairs import MAX_SHARING, collect_pairs, group_products
from embed.behaviour import Interactions
from embed.catalogue import Catalogue
from embed.encode_job import SpaceVectors
from embed.encoders import ImageEncoder, TextEncoder, Vectors, choose_device
from embed.errors import EmbedError
from embed.text_composition import DESCRIPTION, search_texts
from embed.vector_store import VectorStore
from index.top_k import TIE
from serve.core.errors import StoreUnavailable
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.engine.query_encoders import Encoders
from serve.evaluation.ranking_metrics import K, bootstrap_interval
from serve.evaluation.release_gate import MAX_CASES, MIN_CASES, SEED
from serve.evaluation.text_probe import held_out_queries
from serve.release.manifest import Check, Manifest

NAME = 1  # place of the name among the texts of an item (see embed.text_composition.search_texts)
BLOCK_ROWS = 8192  # candidates that are scored together
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class EncoderComparison:
    """The checks of the encoders, and which tests could not be made, and why."""

    checks: list[Check]
    notes: list[str]


@dataclass(frozen=True)
class Retrieval:
    """q queries for which one of m candidates is right: the rows of a space, in `rows` [m], have groups, `group` [m].

    A candidate is right for a query if its group is the query's, `own` [q]. `skip` [q] is the candidate that the query
    is made of, -1 for none.
    """

    rows: Integers
    group: Integers
    own: Integers
    skip: Integers


def changed_spaces(release: Manifest, parent: Manifest) -> list[str]:
    """Return the spaces of both releases whose vectors are of different encoders."""
    return [
        name
        for name, entry in release.spaces.items()
        if name in parent.spaces and entry.fingerprint != parent.spaces[name].fingerprint
    ]


def compare_encoders(
    settings: Settings,
    catalogue: Catalogue,
    spaces: Sequence[SpaceVectors],
    interactions: Interactions,
    release: Manifest,
    parent: Manifest,
    progress: Progress | None = None,
) -> EncoderComparison:
    """Compare the encoders of the spaces that changed.

    Args:
        settings: The store and its settings.
        catalogue: The items of the release.
        spaces: The rows of the release's spaces.
        interactions: What users did with the items.
        release: The new release.
        parent: The release that it would replace.
        progress: Called with the tests done and in total.
    """
    changed = changed_spaces(release, parent)
    if not changed:
        return EncoderComparison([], [])
    with tempfile.TemporaryDirectory(prefix=".compare-", dir=settings.store) as folder:
        tests = _Tests(settings, catalogue, spaces, interactions, release, parent, Path(folder))
        checks: list[Check] = []
        notes: list[str] = []
        planned = list(tests.of(changed))
        for done, (name, space, measure) in enumerate(planned):
            if progress:
                progress("compare encoders", done, len(planned), "tests")
            try:
                old, new = measure()
            except (EmbedError, StoreUnavailable) as error:
                notes.append(f"{name} not compared: {error}")
                continue
            if len(old) < MIN_CASES:
                notes.append(f"{name} not compared: {len(old)} cases, {MIN_CASES} are needed")
            else:
                checks += _checks(name, space, old, new)
        if progress:
            progress("compare encoders", len(planned), len(planned), "tests")
    compared = {check.space for check in checks}
    notes += [f"{space}: the encoders could not be compared at all" for space in changed if space not in compared]
    return EncoderComparison(checks, notes)


Ranks = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The ranks, from 1, of the first right results of the same cases with the old and the new encoder, [cases] each."""


class _Tests:
    """The tests of one comparison."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Catalogue,
        spaces: Sequence[SpaceVectors],
        interactions: Interactions,
        release: Manifest,
        parent: Manifest,
        folder: Path,
    ) -> None:
        self._catalogue, self._interactions, self._folder = catalogue, interactions, folder
        self._manifests = (parent, release)
        self._encoders = Encoders(choose_device(settings.device, settings.threads), settings.encoders)
        pairs = {space.space: _common_rows(settings, space, parent) for space in spaces if space.space in parent.spaces}
        self._spaces: Mapping[str, tuple[SpaceVectors, SpaceVectors]] = pairs
        grouped = pairs["image" if "image" in pairs else "text"][1]
        self._products = group_products(catalogue, grouped)

    def of(self, changed: Sequence[str]) -> Iterator[tuple[str, str, Callable[[], Ranks]]]:
        """Yield the tests that changed spaces take: name, space, and what measures it."""
        if "image" in changed:
            yield "photos by photo", "image", self._photos
        alignment = self._manifests[1].alignment
        if alignment is not None and ("image" in changed or not alignment.joint):
            yield "photos by name", "image", self._names
        if "text" in changed:
            yield "descriptions by name", "text", self._descriptions
        for space in changed:
            yield f"next items by {space}", space, lambda space=space: self._next_items(space)  # type: ignore[misc]

    def _photos(self) -> Ranks:
        images = self._spaces["image"][1]
        _, first, sharing = np.unique(images.keys, return_index=True, return_counts=True)
        rows = np.sort(first[sharing <= MAX_SHARING])
        product = self._products[images.owners[rows]]
        _, first, photos = np.unique(product, return_index=True, return_counts=True)
        queries = _sample(first[photos > 1])
        test = Retrieval(rows, product, product[queries], queries)
        old, new = (self._ranks(space, test) for space in self._spaces["image"])
        return old, new

    def _names(self) -> Ranks:
        results = []
        for manifest, images in zip(self._manifests, self._spaces["image"], strict=True):
            encoder, joint = self._text_encoder(manifest)
            pairs = collect_pairs(self._catalogue, images, self._products, encoder, SEED)
            product, first = np.unique(pairs.product, return_index=True)
            if len(product) < MIN_PRODUCTS:
                return np.empty(0), np.empty(0)
            queries = _sample(first)
            distinct = np.unique(pairs.image, return_index=True)[1]
            test = Retrieval(distinct, pairs.product[distinct], pairs.product[queries], np.full(len(queries), -1))
            by_shrinkage = held_out_queries(pairs, joint, queries, NAME)
            ranks = [first_ranks(each, pairs.images[distinct], test) for each in by_shrinkage]
            results.append(max(ranks, key=lambda each: float((1 / each).mean())))
        old, new = results
        return old, new

    def _descriptions(self) -> Ranks:
        texts = self._spaces["text"][1]
        rows = np.flatnonzero(texts.labels == DESCRIPTION)
        rows = rows[np.unique(texts.keys[rows], return_index=True)[1]]
        product = self._products[texts.owners[rows]]
        _, first = np.unique(product, return_index=True)
        first = np.array([row for row in _sample(first).tolist() if self._name(texts.owners[rows[row]])], np.int64)
        names = [self._name(owner) for owner in texts.owners[rows[first]].tolist()]
        test = Retrieval(rows, product, product[first], np.full(len(first), -1))
        results = []
        for manifest, space in zip(self._manifests, self._spaces["text"], strict=True):
            encoder = self._encoder(manifest, "text")
            assert isinstance(encoder, TextEncoder)  # noqa: S101  the encoder of a text space is one
            queries = encoder.encode_texts(names, query=True).vectors if names else np.empty((0, space.dim), np.float32)
            results.append(self._ranks(space, test, queries))
        old, new = results
        return old, new

    def _next_items(self, space: str) -> Ranks:
        vectors = self._spaces[space][1]
        items, rows = np.unique(vectors.owners, return_index=True)  # the first row of each item, as similar items use
        place = np.full(len(self._catalogue), -1)
        place[items] = np.arange(len(items))
        liked = self._interactions.where(self._interactions.weight > 0)
        last = liked.starts[1:][np.diff(liked.starts) > 1] - 1
        before, after = place[liked.item[last - 1]], place[liked.item[last]]
        pairs = _sample(np.flatnonzero((before >= 0) & (after >= 0) & (before != after)))
        test = Retrieval(rows, np.arange(len(items)), after[pairs], before[pairs])
        old, new = (self._ranks(each, test) for each in self._spaces[space])
        return old, new

    def _text_encoder(self, manifest: Manifest) -> tuple[TextEncoder, bool]:
        """Return the encoder of texts for a release's photos, and whether it is that of the photos."""
        images = self._encoder(manifest, "image")
        if isinstance(images, TextEncoder):
            return images, True
        texts = self._encoder(manifest, "text")
        assert isinstance(texts, TextEncoder)  # noqa: S101
        return texts, False

    def _encoder(self, manifest: Manifest, space: str) -> ImageEncoder | TextEncoder:
        """Return the encoder of a space; raises StoreUnavailable where the old one can encode no queries any more."""
        try:
            return self._encoders.encoder(manifest, space)
        except (EmbedError, StoreUnavailable) as error:
            if manifest is not self._manifests[0]:
                raise
            name = manifest.spaces[space].encoder
            raise StoreUnavailable(
                f"the active release's encoder {name} cannot be loaded any more, so that it encodes no queries",
                f"spaces/{space}",
            ) from error

    def _name(self, row: int) -> str:
        return search_texts(self._catalogue.item(row))[NAME] if self._catalogue.item(row).title else ""

    def _ranks(self, space: SpaceVectors, test: Retrieval, queries: Vectors | None = None) -> NDArray[np.float64]:
        """Return the rank of the first right candidate of each query; by default the queries are what they skip."""
        if not len(test.own):
            return np.empty(0)
        path = self._folder / "candidates.npy"
        candidates = np.lib.format.open_memmap(path, "w+", np.float32, (len(test.rows), space.dim))
        space.store.gather(space.keys[test.rows], candidates)
        return first_ranks(candidates[test.skip] if queries is None else queries, candidates, test)


def first_ranks(queries: Vectors, candidates: Vectors, test: Retrieval) -> NDArray[np.float64]:
    """Return the rank, from 1, of the best right candidate [m, d] of each query [q, d]; ties count half."""

    def blocks() -> Iterable[tuple[Vectors, NDArray[np.bool_]]]:
        for start in range(0, len(candidates), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            scores = queries @ candidates[part].T
            within = np.flatnonzero((test.skip >= start) & (test.skip < start + BLOCK_ROWS))
            scores[within, test.skip[within] - start] = -np.inf
            yield scores, test.own[:, None] == test.group[part][None]

    best = np.full(len(queries), -np.inf, np.float32)
    for scores, right in blocks():
        best = np.maximum(best, np.where(right, scores, -np.inf).max(1))
    ranks = np.ones(len(queries))
    for scores, right in blocks():
        above, level = scores > best[:, None] + TIE, np.abs(scores - best[:, None]) <= TIE
        ranks += (above & ~right).sum(1) + (level & ~right).sum(1) / 2
    return ranks


def _common_rows(settings: Settings, space: SpaceVectors, parent: Manifest) -> tuple[SpaceVectors, SpaceVectors]:
    """Return the rows of a space that have vectors of both encoders: with those of the parent's, and with its own."""
    entry = parent.spaces[space.space]
    old = VectorStore(settings.store, space.space, entry.fingerprint, entry.dim)
    common = old.contains(space.keys)
    new = replace(space, owners=space.owners[common], labels=space.labels[common], keys=space.keys[common])
    return replace(new, store=old, encoder=entry.encoder, fingerprint=entry.fingerprint), new


def _sample(values: NDArray[np.int64]) -> Integers:
    """Return at most MAX_CASES of some values, at random."""
    return np.random.default_rng(SEED).permutation(values)[:MAX_CASES]


def _checks(name: str, space: str, old: NDArray[np.float64], new: NDArray[np.float64]) -> Iterator[Check]:
    """Yield the checks of the ranks [cases] of both encoders: worse if the difference is surely negative."""
    for metric, before, after in (("MRR", 1 / old, 1 / new), (f"recall@{K}", old <= K, new <= K)):
        low, high = bootstrap_interval(after.astype(np.float64) - before, SEED)
        yield Check(
            name=f"{metric} of {name}",
            parent=round(float(before.mean()), 4),
            release=round(float(after.mean()), 4),
            low=low,
            high=high,
            cases=len(old),
            worse=high < 0,
            space=space,
        )
