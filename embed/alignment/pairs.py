"""What an alignment learns from: images of items, words that a shopper may look for them by, and which product each is.

Of a product's variants (colours, sizes) some must not be learned from while others are measured with, so products are
told apart first: items that share a title, an image, or what feeds call an item group.
"""

import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from embed.catalogue import Catalogue, Item
from embed.compose import VIEWS, search_texts
from embed.encode_job import SpaceVectors
from embed.encoders import TextEncoder, Vectors

MAX_PAIRS = 10_000
MAX_PHOTOS = 20_000
SHARED_BY = 50  # items that may share an image or title as variants do; what more share says nothing of any
GROUP_NAMES = frozenset({"item_group_id", "parent_sku", "parent_id", "group_id"})
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Pairs:
    """n times an item and words: unit vectors [n, d] of its first image, of v ways to put the words [v, n, d_words].

    `product` [n] is the item's; equal numbers in `image` [n] are the same image, in `text` [v, n] the same words.
    """

    images: Vectors
    words: Vectors
    product: NDArray[np.int64]
    image: NDArray[np.int64]
    text: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def pictures(self) -> Vectors:
        """Each image once."""
        return self.images[np.unique(self.image, return_index=True)[1]]

    def of(self, products: NDArray[np.int64]) -> "Pairs":
        """Those of some products."""
        chosen = np.isin(self.product, products)
        return Pairs(
            self.images[chosen],
            self.words[:, chosen],
            self.product[chosen],
            self.image[chosen],
            self.text[:, chosen],
        )


@dataclass(frozen=True)
class Photos:
    """n different photos of products that have several: unit vectors [n, d], and the product [n] of each."""

    images: Vectors
    product: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def of(self, products: NDArray[np.int64]) -> "Photos":
        """Those of some products."""
        chosen = np.isin(self.product, products)
        return Photos(self.images[chosen], self.product[chosen])


def products_of(catalogue: Catalogue, images: SpaceVectors) -> NDArray[np.int64]:
    """The number of each item's product, [items]."""
    rows, names = array("q"), array("Q")
    for row, item in enumerate(_items(catalogue)):
        for name in _shared_names(item):
            rows.append(row)
            names.append(
                int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
            )
    owners = np.concatenate([np.array(rows, np.int64), images.owners])
    halves = images.keys.view(np.uint64).reshape(-1, 2)[:, 0]
    _, shared, sharing = np.unique(np.concatenate([names, halves]), return_inverse=True, return_counts=True)
    few = sharing[shared] <= SHARED_BY
    size = len(catalogue) + len(sharing)
    edges = (np.ones(int(few.sum()), np.bool_), (owners[few], len(catalogue) + shared[few]))
    _, labels = connected_components(coo_array(edges, (size, size)), directed=False)
    return np.asarray(labels[: len(catalogue)], np.int64)


def collect_pairs(
    catalogue: Catalogue,
    images: SpaceVectors,
    products: NDArray[np.int64],
    encoder: TextEncoder,
    seed: int,
    progress: Progress | None = None,
    searched: Sequence[tuple[int, str]] = (),
) -> Pairs:
    """At most 10,000 items with image, chosen at random, that have words; an image that over 50 share is nobody's.

    And pairs of their own of what was `searched` for: the catalogue row that a shopper then took to, and the words.
    """
    _, image, sharing = np.unique(images.keys, return_inverse=True, return_counts=True)
    first = np.full(len(catalogue), -1, np.int64)
    usable = np.flatnonzero(sharing[image] <= SHARED_BY)[::-1]
    first[images.owners[usable]] = usable  # the earliest, as it is written last
    wanted = np.zeros(len(catalogue), np.bool_)
    wanted[np.random.default_rng(seed).permutation(np.flatnonzero(first >= 0))[:MAX_PAIRS]] = True
    said = {row: search_texts(item) for row, item in enumerate(_items(catalogue)) if wanted[row]}
    texts = [(row, views) for row, views in said.items() if views]
    texts += [(row, [query] * VIEWS) for row, query in searched if first[row] >= 0]
    chosen = np.array([row for row, _ in texts], np.int64)
    numbers: dict[str, int] = {}
    text = np.array([[numbers.setdefault(view, len(numbers)) for view in views] for _, views in texts], np.int64)
    words = np.empty((len(numbers), encoder.dim), np.float32)
    listed = list(numbers)
    for start in range(0, len(listed), 1024):
        words[start : start + 1024] = encoder.encode_texts(listed[start : start + 1024]).vectors
        if progress:
            progress(min(start + 1024, len(listed)), len(listed))
    rows = first[chosen]
    vectors = np.empty((len(rows), images.dim), np.float32)
    images.store.gather(images.keys[rows], vectors)
    text = text.reshape(len(chosen), VIEWS).T
    return Pairs(vectors, words[text], products[chosen], image[rows], text)


def collect_photos(images: SpaceVectors, products: NDArray[np.int64], seed: int) -> Photos:
    """At most 20,000 different photos of products that have several, whole products chosen at random."""
    _, image, sharing = np.unique(images.keys, return_inverse=True, return_counts=True)
    row = np.flatnonzero(sharing[image] <= SHARED_BY)
    _, once = np.unique(np.stack([products[images.owners[row]], image[row]]), axis=1, return_index=True)
    row = row[np.sort(once)]
    product = products[images.owners[row]]
    several = np.flatnonzero(np.bincount(product) > 1)
    several = np.random.default_rng(seed).permutation(several)
    counts = np.bincount(product)[several]
    row = row[np.isin(product, several[np.cumsum(counts) <= MAX_PHOTOS])]
    vectors = np.empty((len(row), images.dim), np.float32)
    images.store.gather(images.keys[row], vectors)
    return Photos(vectors, products[images.owners[row]])


def _items(catalogue: Catalogue) -> Iterator[Item]:
    for batch in catalogue.batches():
        yield from batch


def _shared_names(item: Item) -> Iterator[str]:
    if item.title:
        yield "title " + re.sub(r"\s+", " ", item.title).casefold()
    for name, values in item.attributes.items():
        if values and name.casefold() in GROUP_NAMES:
            yield "group " + values[0]
