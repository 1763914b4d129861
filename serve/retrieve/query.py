"""Queries, and what they are in the spaces: words, photos and items as one vector for each."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from embed.catalogue import is_blank
from embed.encoders import (
    Device,
    ImageEncoder,
    TextEncoder,
    Vectors,
    choose_device,
    load_image_encoder,
    load_text_encoder,
)
from embed.images import ImageLimits, decode_image
from index import gpu
from index.contract import VectorIndex
from index.threads import limit_threads
from serve.errors import BadRequest, Broken
from serve.manifest import Manifest
from serve.metrics import CACHE
from serve.recommend.sources import TOWER
from serve.release import Release
from serve.settings import Settings
from serve.words.lexicon import WORDS

KEPT_QUERIES = 4096
PART_WEIGHTS = {"text": 1.0, "image": 1.0, "like": 1.0, "unlike": 0.5}


@dataclass(frozen=True)
class Query:
    """What to look for: any of words, a photo (its bytes), liked and unliked items; `weights` of these parts.

    `spaces` limits the search to some spaces; otherwise every space is searched that some part of the query can enter.
    Only items come out that pass the `filter`.
    """

    k: int
    text: str | None = None
    image: bytes | None = None
    like: Sequence[str] = ()
    unlike: Sequence[str] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    exclude: Sequence[str] = ()
    spaces: Sequence[str] = ()
    filter: Mapping[str, Any] = field(default_factory=dict)


class Encoders:
    """Encoders of queries, loaded when first needed and kept; shared by all releases a process has open."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._loaded: dict[tuple[str, str], ImageEncoder | TextEncoder] = {}
        self._kept: OrderedDict[tuple[str, str], Vectors] = OrderedDict()  # by fingerprint and words; in memory only
        self._keeping = threading.Lock()

    def texts(self, manifest: Manifest, space: str, text: str) -> Vectors:
        """Words as the text encoder of a space has them, [1, dim]; those asked for last are kept."""
        encoder = self.of(manifest, space)
        assert isinstance(encoder, TextEncoder)  # noqa: S101
        key = (encoder.fingerprint, text)
        with self._keeping:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        CACHE.labels("queries", "miss" if kept is None else "hit").inc()
        if kept is None:
            kept = encoder.encode_texts([text]).vectors
            with self._keeping:
                self._kept[key] = kept
                while len(self._kept) > KEPT_QUERIES:
                    self._kept.popitem(last=False)
        return kept

    def load(self, space: str, name: str) -> ImageEncoder | TextEncoder:
        """The encoder that `name` names for a space; raises BadInput or Missing where it cannot be had."""
        if (space, name) not in self._loaded:
            load = load_image_encoder if space == "image" else load_text_encoder
            self._loaded[space, name] = load(name, self._device)
        return self._loaded[space, name]

    def warm_up(self, manifest: Manifest) -> None:
        """Load the encoders of a release and use each once, so that its first question does not wait for them."""
        for space in manifest.spaces:
            encoder = self.of(manifest, space)
            if isinstance(encoder, TextEncoder):
                encoder.encode_texts(["any"])
            if isinstance(encoder, ImageEncoder):
                encoder.encode_images([encoder.prepare(Image.new("RGB", (8, 8)))])

    def of(self, manifest: Manifest, space: str) -> ImageEncoder | TextEncoder:
        """The encoder that made a space; Broken where the one of that name here is not the same one."""
        entry = manifest.spaces[space]
        encoder = self.load(space, entry.encoder)
        if encoder.fingerprint != entry.fingerprint:
            raise Broken(
                f"space {space} was made by {entry.encoder} {entry.fingerprint}, but {entry.encoder} here is "
                f"{encoder.fingerprint}: build again",
                f"spaces/{space}",
            )
        return encoder


def make_encoders(settings: Settings) -> Encoders:
    """Encoders on the device of the settings. Searches get one thread each: requests run beside each other."""
    limit_threads(1)
    torch.set_num_threads(1)  # of the towers; encoders that run in torch set their own
    pa.set_cpu_count(1)
    gpu.allow(settings.device != "cpu")
    return Encoders(choose_device(settings.device, settings.threads))


def query_vectors(
    query: Query,
    chosen: Sequence[str],
    spaces: Mapping[str, VectorIndex],
    release: Release,
    encoders: Encoders,
    limits: ImageLimits,
    number: Callable[[str, str], int],
    by_words: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """One unit vector for each of the `chosen` spaces that the query enters: the weighted sum of its parts there.

    `number` gives the number of an item by its id and the field that names it. Raises BadRequest where the query is
    empty or no space can take it; words that are searched for `by_words` too need none. Source: Rocchio 1971.
    """
    weights = PART_WEIGHTS | dict(query.weights)
    if query.text is not None and is_blank(query.text):
        raise BadRequest("text is blank: give some words, or leave it out", "text", "blank_text")
    if query.text is None and query.image is None and not query.like:
        raise BadRequest("nothing to search for: give text, image or like", "text", "empty_query")
    liked, unliked = (
        [number(item_id, name) for item_id in ids] for name, ids in (("like", query.like), ("unlike", query.unlike))
    )
    entrance = _Entrance(release, encoders)
    parts: dict[str, list[tuple[NDArray[np.float32], float]]] = {}
    entered = {"text"} if by_words else set[str]()
    for space in chosen:
        index, found = spaces[space], parts.setdefault(space, [])
        if query.text is not None and (vector := entrance.words(space, query.text)) is not None:
            found.append((vector[0], weights["text"]))
            entered.add("text")
        if query.image is not None and space == "image":
            found.append((entrance.photo(query.image, limits)[0], weights["image"]))
            entered.add("image")
        for part, numbers, weight in (("like", liked, weights["like"]), ("unlike", unliked, -weights["unlike"])):
            for vector in index.vectors_of(np.array(numbers, np.int64)):
                if vector.any():
                    found.append((vector, weight))
                    entered.add(part)
    for part, given, what in (
        ("text", query.text, "takes words"),
        ("image", query.image, "takes photos"),
        ("like", query.like or None, "knows the liked items"),
    ):
        if given is not None and part not in entered:
            raise BadRequest(f"no space of {', '.join(chosen) or WORDS} {what} in release {release.name}", part)
    directions = {
        space: direction
        for space, found in parts.items()
        if any(weight > 0 for _, weight in found)
        and (direction := direction_of([vector for vector, _ in found], [weight for _, weight in found])) is not None
    }
    if not directions and any(parts.values()):
        raise BadRequest("the parts of the query cancel each other out: change their weights", "weights")
    return directions


class _Entrance:
    """How the words and the photo of one query enter the spaces of a release."""

    def __init__(self, release: Release, encoders: Encoders) -> None:
        self._manifest, self._alignment, self._encoders = release.manifest, release.alignment, encoders

    def words(self, space: str, text: str) -> Vectors | None:
        """Words as a query of a space, [1, dim]; None where it takes none."""
        if space == TOWER:
            return None
        if space == "image" and self._alignment is not None and self._alignment.takes_words:
            by = "image" if self._alignment.facts.joint else "text"
            return self._alignment.words(self._encoders.texts(self._manifest, by, text))
        if not isinstance(self._encoders.of(self._manifest, space), TextEncoder):
            return None
        return self._encoders.texts(self._manifest, space, text)

    def photo(self, image: bytes, limits: ImageLimits) -> Vectors:
        """A photo as a query of the image space, [1, dim]."""
        encoder = self._encoders.of(self._manifest, "image")
        assert isinstance(encoder, ImageEncoder)  # noqa: S101  whatever makes an image space is
        pixels = encoder.prepare(decode_image(image, limits, shrink_to=encoder.shrink_to))
        vectors = encoder.encode_images([pixels])
        return vectors if self._alignment is None else self._alignment.photos(vectors)


def direction_of(vectors: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32] | None:
    """The unit vector along a weighted sum, or None where the sum vanishes."""
    if len(vectors) == 1 and weights[0] > 0:
        return vectors[0]
    total = np.sum([weight * vector for vector, weight in zip(vectors, weights, strict=True)], axis=0)
    length = float(np.linalg.norm(total))
    return (total / length).astype(np.float32) if length > 1e-6 else None
