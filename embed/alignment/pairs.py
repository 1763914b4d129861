"""Training data of an alignment: images of items, texts that a user may search for them with, and their products.

Variants of a product (colours, sizes) must not be split between training and test data. So items are first grouped into
products: items that share a title, an image, or an item group of the feed.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from embed.catalogue import Catalogue, Item
from embed.encode_job import SpaceVectors
from embed.encoders import TextEncoder, Vectors
from embed.progress import Progress
from embed.text_composition import TEXT_VIEWS, search_texts

MAX_PAIRS = 10_000
MAX_PHOTOS = 20_000
MAX_SHARING = 50  # items that may share an image or title, as variants do; one that more share is a placeholder
GROUP_NAMES = frozenset({"item_group_id", "parent_sku", "parent_id", "group_id"})


@dataclass(frozen=True)
class TextImagePairs:
    """n pairs of image and text: unit vectors of an item's first image [n, d] and of v texts for it [v, n, d_words].

    `product` [n] is the item's product. Equal values in `image` [n] mean the same image, in `text` [v, n] the same
    text.
    """

    images: Vectors
    words: Vectors
    product: NDArray[np.int64]
    image: NDArray[np.int64]
    text: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def distinct_images(self) -> Vectors:
        """The vectors of the images, each once."""
        return self.images[np.unique(self.image, return_index=True)[1]]

    def select(self, products: NDArray[np.int64]) -> "TextImagePairs":
        """Return the pairs of some products."""
        chosen = np.isin(self.product, products)
        return TextImagePairs(
            self.images[chosen],
            self.words[:, chosen],
            self.product[chosen],
            self.image[chosen],
            self.text[:, chosen],
        )


@dataclass(frozen=True)
class ProductPhotos:
    """n distinct photos of products with several photos: unit vectors [n, d], and the product [n] of each."""

    images: Vectors
    product: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def select(self, products: NDArray[np.int64]) -> "ProductPhotos":
        """Return the photos of some products."""
        chosen = np.isin(self.product, products)
        return ProductPhotos(self.images[chosen], self.product[chosen])


def group_products(catalogue: Catalogue, images: SpaceVectors) -> NDArray[np.int64]:
    """Group items into products; return the index of each item's product, [items]."""
    rows, names = array("q"), array("Q")
    for row, item in enumerate(catalogue.items()):
        for name in _product_names(item):
            rows.append(row)
            names.append(
                int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
            )
    owners = np.concatenate([np.array(rows, np.int64), images.owners])
    halves = images.keys.view(np.uint64).reshape(-1, 2)[:, 0]
    _, name_index, sharing = np.unique(np.concatenate([names, halves]), return_inverse=True, return_counts=True)
    few = sharing[name_index] <= MAX_SHARING
    size = len(catalogue) + len(sharing)
    edges = (np.ones(int(few.sum()), np.bool_), (owners[few], len(catalogue) + name_index[few]))
    _, labels = connected_components(coo_array(edges, (size, size)), directed=False)
    return np.asarray(labels[: len(catalogue)], np.int64)


def collect_pairs(
    catalogue: Catalogue,
    images: SpaceVectors,
    products: NDArray[np.int64],
    encoder: TextEncoder,
    seed: int,
    progress: Progress | None = None,
    searches: Sequence[tuple[int, str]] = (),
) -> TextImagePairs:
    """Collect training pairs from at most 10,000 items with image and text, chosen at random.

    An image that over 50 items share is not used.

    Args:
        catalogue: The items.
        images: The rows of the image space.
        products: Product of each item [items], as `group_products` returns it.
        encoder: Encodes the texts.
        seed: Seed of the choice.
        progress: Called with texts done and texts in total.
        searches: Further pairs: the catalogue row that a user interacted with after a search, and the query.

    Returns:
        The pairs.
    """
    _, image, sharing = np.unique(images.keys, return_inverse=True, return_counts=True)
    first = np.full(len(catalogue), -1, np.int64)
    usable = np.flatnonzero(sharing[image] <= MAX_SHARING)[::-1]
    first[images.owners[usable]] = usable  # the first image of each item, because it is written last
    chosen = np.zeros(len(catalogue), np.bool_)
    chosen[np.random.default_rng(seed).permutation(np.flatnonzero(first >= 0))[:MAX_PAIRS]] = True
    texts = [(row, search_texts(item)) for row, item in enumerate(catalogue.items()) if chosen[row]]
    texts = [(row, views) for row, views in texts if views]
    texts += [(row, [query] * TEXT_VIEWS) for row, query in searches if first[row] >= 0]
    items = np.array([row for row, _ in texts], np.int64)
    ids: dict[str, int] = {}
    text = np.array([[ids.setdefault(view, len(ids)) for view in views] for _, views in texts], np.int64)
    words = np.empty((len(ids), encoder.dim), np.float32)
    distinct = list(ids)
    for start in range(0, len(distinct), 1024):
        words[start : start + 1024] = encoder.encode_texts(distinct[start : start + 1024], query=True).vectors
        if progress:
            progress(min(start + 1024, len(distinct)), len(distinct))
    rows = first[items]
    vectors = np.empty((len(rows), images.dim), np.float32)
    images.store.gather(images.keys[rows], vectors)
    text = text.reshape(len(items), TEXT_VIEWS).T
    return TextImagePairs(vectors, words[text], products[items], image[rows], text)


def collect_photos(images: SpaceVectors, products: NDArray[np.int64], seed: int) -> ProductPhotos:
    """Collect at most 20,000 distinct photos of products with several, whole products chosen at random."""
    _, image, sharing = np.unique(images.keys, return_inverse=True, return_counts=True)
    row = np.flatnonzero(sharing[image] <= MAX_SHARING)
    _, distinct = np.unique(np.stack([products[images.owners[row]], image[row]]), axis=1, return_index=True)
    row = row[np.sort(distinct)]
    product = products[images.owners[row]]
    several = np.flatnonzero(np.bincount(product) > 1)
    several = np.random.default_rng(seed).permutation(several)
    counts = np.bincount(product)[several]
    row = row[np.isin(product, several[np.cumsum(counts) <= MAX_PHOTOS])]
    vectors = np.empty((len(row), images.dim), np.float32)
    images.store.gather(images.keys[row], vectors)
    return ProductPhotos(vectors, products[images.owners[row]])


def _product_names(item: Item) -> Iterator[str]:
    """Yield the names that items of one product share."""
    if item.title:
        yield "title " + re.sub(r"\s+", " ", item.title).casefold()
    for name, values in item.attributes.items():
        if values and name.casefold() in GROUP_NAMES:
            yield "group " + values[0]
