"""Images of a shop that show the same: found by their vectors, made sure of by how they look.

Vectors alone find the same kind of thing, looks alone would have to be held against all others; together they are sure
and quick.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from embed.images import ImageRefused, ImageSource, decode_image
from embed.images.look import ImageSignature, image_signature
from index.protocol import VectorIndex
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.release.images import image_source
from serve.release.release import Release
from serve.release.repository import open_current

ALIKE = 0.75  # the least cosine of what is looked at
NEIGHBOURS = 10  # items that each image is held against
Progress = Callable[[str, float, float, str], None]
Place = tuple[int, int]  # an item's number and which of its images


@dataclass(frozen=True)
class DuplicateImage:
    """An image in a group of the same ones."""

    item_id: str
    title: str | None
    image: str


@dataclass(frozen=True)
class DuplicatesReport:
    """Groups of images that show the same, each of at least two items; `refused` of them could not be read again."""

    images: int
    compared: int
    refused: int
    groups: list[list[DuplicateImage]]


def find_duplicates(settings: Settings, progress: Progress | None = None) -> DuplicatesReport:
    """Look for the same image under several items of the current release; raises BadRequest where it has no images."""
    release = open_current(settings.store)
    index = release.spaces.get("image")
    if index is None:
        raise BadRequest(f"release {release.name} has no image space", "space")
    images = 0
    pairs: set[tuple[Place, Place]] = set()
    for number in range(release.manifest.items):
        labels, vectors = index.rows_of(number)
        images += len(labels)
        pairs.update(_alike(index, number, labels, vectors))
        if progress:
            progress("compare vectors", number + 1, release.manifest.items, "items")
    places = sorted({place for pair in pairs for place in pair})
    source = image_source(settings)
    looks: dict[Place, ImageSignature] = {}
    with ThreadPoolExecutor(settings.threads or None) as pool:
        for done, (place, look) in enumerate(pool.map(lambda place: (place, _look(release, place, source)), places)):
            if look is not None:
                looks[place] = look
            if progress:
                progress("look again", done + 1, len(places), "images")
    source.close()
    same = [
        (one, other)
        for one, other in sorted(pairs)
        if one in looks and other in looks and looks[one].is_copy(looks[other])
    ]
    groups = [_told(release, group) for group in _joined(same)]
    return DuplicatesReport(images, len(pairs), len(places) - len(looks), groups)


def _alike(
    index: VectorIndex, number: int, labels: NDArray[np.int32], vectors: NDArray[np.float32]
) -> Iterator[tuple[Place, Place]]:
    """Pairs of an item's images and those of other items whose vectors are alike."""
    if not len(labels):
        return
    hits = index.search(vectors, NEIGHBOURS + 1)
    for label, vector, ids, scores in zip(labels.tolist(), vectors, hits.ids, hits.scores, strict=True):
        for other in ids[(scores >= ALIKE) & (ids != number)].tolist():
            its_labels, its_vectors = index.rows_of(other)
            for its_label in its_labels[its_vectors @ vector >= ALIKE].tolist():
                one, two = sorted([(number, label), (other, its_label)])
                yield one, two


def _look(release: Release, place: Place, source: ImageSource) -> ImageSignature | None:
    number, label = place
    try:
        data = source.read(release.item(number).images[label])
        return image_signature(decode_image(data, source.limits, shrink_to=64))
    except ImageRefused:
        return None


def _joined(pairs: list[tuple[Place, Place]]) -> list[list[Place]]:
    """Groups of what pairs join."""
    places = sorted({place for pair in pairs for place in pair})
    numbers = {place: at for at, place in enumerate(places)}
    ends = np.array([[numbers[one], numbers[other]] for one, other in pairs], np.int64).reshape(-1, 2).T
    edges = coo_array((np.ones(ends.shape[1], np.bool_), (ends[0], ends[1])), (len(places), len(places)))
    count, labels = connected_components(edges, directed=False)
    groups: list[list[Place]] = [[] for _ in range(count)]
    for place, label in zip(places, labels.tolist(), strict=True):
        groups[label].append(place)
    return groups


def _told(release: Release, group: list[Place]) -> list[DuplicateImage]:
    items = [(release.item(number), label) for number, label in group]
    return [DuplicateImage(item.item_id, item.title, item.images[label]) for item, label in items]
