"""Finds photos that several items share.

Vectors select pairs that look alike; perceptual hashes then confirm them. Vectors alone also match other items of the
same kind, and hashes alone would have to be compared for every pair.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from embed.images import ImageRefused, ImageSource, decode_image
from embed.images.signature import ImageSignature, compute_signature
from index.protocol import VectorIndex
from serve.core.errors import BadRequest
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.release.images import image_source
from serve.release.release import Release
from serve.release.repository import open_current

MIN_COSINE = 0.75  # of pairs whose signatures are compared
NEIGHBOURS = 10  # items that each photo is compared with
Photo = tuple[int, int]  # the index of an item, and which of its photos


@dataclass(frozen=True)
class DuplicateImage:
    """A photo of a group of duplicates."""

    item_id: str
    title: str | None
    image: str


@dataclass(frozen=True)
class DuplicatesReport:
    """Groups of photos that show the same, each of at least two items; `refused` photos could not be read."""

    images: int
    compared: int
    refused: int
    groups: list[list[DuplicateImage]]


def find_duplicates(settings: Settings, progress: Progress | None = None) -> DuplicatesReport:
    """Find photos that several items of the active release share; raises BadRequest where it has no photos."""
    release = open_current(settings.store)
    index = release.spaces.get("image")
    if index is None:
        raise BadRequest(f"release {release.name} has no image space", "space")
    images = 0
    pairs: set[tuple[Photo, Photo]] = set()
    for item_index in range(release.manifest.items):
        labels, vectors = index.item_rows(item_index)
        images += len(labels)
        pairs.update(_similar_pairs(index, item_index, labels, vectors))
        if progress:
            progress("compare vectors", item_index + 1, release.manifest.items, "items")
    photos = sorted({photo for pair in pairs for photo in pair})
    source = image_source(settings)
    signatures: dict[Photo, ImageSignature] = {}

    def read(photo: Photo) -> tuple[Photo, ImageSignature | None]:
        return photo, _signature(release, photo, source)

    with ThreadPoolExecutor(settings.threads or None) as pool:
        for done, (photo, signature) in enumerate(pool.map(read, photos), 1):
            if signature is not None:
                signatures[photo] = signature
            if progress:
                progress("compare photos", done, len(photos), "images")
    source.close()
    copies = [
        (one, other)
        for one, other in sorted(pairs)
        if one in signatures and other in signatures and signatures[one].is_copy(signatures[other])
    ]
    groups = [_describe(release, group) for group in _connected_groups(copies)]
    return DuplicatesReport(images, len(pairs), len(photos) - len(signatures), groups)


def _similar_pairs(
    index: VectorIndex, item_index: int, labels: NDArray[np.int32], vectors: NDArray[np.float32]
) -> Iterator[tuple[Photo, Photo]]:
    """Yield pairs of an item's photos and photos of other items with similar vectors."""
    if not len(labels):
        return
    hits = index.search(vectors, NEIGHBOURS + 1)
    for label, vector, items, scores in zip(labels.tolist(), vectors, hits.items, hits.scores, strict=True):
        for other in items[(scores >= MIN_COSINE) & (items != item_index)].tolist():
            other_labels, other_vectors = index.item_rows(other)
            for other_label in other_labels[other_vectors @ vector >= MIN_COSINE].tolist():
                first, second = sorted([(item_index, label), (other, other_label)])
                yield first, second


def _signature(release: Release, photo: Photo, source: ImageSource) -> ImageSignature | None:
    item_index, label = photo
    try:
        data = source.read(release.item(item_index).images[label])
        return compute_signature(decode_image(data, source.limits, shrink_to=64))
    except ImageRefused:
        return None


def _connected_groups(pairs: list[tuple[Photo, Photo]]) -> list[list[Photo]]:
    """Return the groups of photos that pairs connect."""
    photos = sorted({photo for pair in pairs for photo in pair})
    node = {photo: number for number, photo in enumerate(photos)}
    ends = np.array([[node[one], node[other]] for one, other in pairs], np.int64).reshape(-1, 2).T
    edges = coo_array((np.ones(ends.shape[1], np.bool_), (ends[0], ends[1])), (len(photos), len(photos)))
    count, labels = connected_components(edges, directed=False)
    groups: list[list[Photo]] = [[] for _ in range(count)]
    for photo, label in zip(photos, labels.tolist(), strict=True):
        groups[label].append(photo)
    return groups


def _describe(release: Release, group: list[Photo]) -> list[DuplicateImage]:
    items = [(release.item(item_index), label) for item_index, label in group]
    return [DuplicateImage(item.item_id, item.title, item.images[label]) for item, label in items]
