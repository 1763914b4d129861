"""Queries, and what they are in the spaces: words, photos and items as one vector for each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.catalogue import is_blank
from embed.encoders import ImageEncoder, TextEncoder, Vectors
from embed.images import ImageLimits, decode_image
from index.protocol import VectorIndex
from serve.core.errors import BadRequest
from serve.engine.query_encoders import Encoders
from serve.recommend.retrieval.retrievers import TOWER
from serve.release.release import Release
from serve.search.vocabulary import KEYWORDS

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


def query_vectors(
    query: Query,
    chosen: Sequence[str],
    spaces: Mapping[str, VectorIndex],
    release: Release,
    encoders: Encoders,
    limits: ImageLimits,
    item_index: Callable[[str, str], int],
    by_words: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """One unit vector for each of the `chosen` spaces that the query enters: the weighted sum of its parts there.

    `item_index` gives the number of an item by its id and the field that names it. Raises BadRequest where the query is
    empty or no space can take it; words that are searched for `by_words` too need none. Source: Rocchio 1971.
    """
    weights = PART_WEIGHTS | dict(query.weights)
    if query.text is not None and is_blank(query.text):
        raise BadRequest("text is blank: give some words, or leave it out", "text", "blank_text")
    if query.text is None and query.image is None and not query.like:
        raise BadRequest("nothing to search for: give text, image or like", "text", "empty_query")
    liked, unliked = (
        [item_index(item_id, name) for item_id in ids] for name, ids in (("like", query.like), ("unlike", query.unlike))
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
        for part, item_indices, weight in (("like", liked, weights["like"]), ("unlike", unliked, -weights["unlike"])):
            for vector in index.vectors_of(np.array(item_indices, np.int64)):
                if vector.any():
                    found.append((vector, weight))
                    entered.add(part)
    for part, given, what in (
        ("text", query.text, "takes words"),
        ("image", query.image, "takes photos"),
        ("like", query.like or None, "knows the liked items"),
    ):
        if given is not None and part not in entered:
            raise BadRequest(f"no space of {', '.join(chosen) or KEYWORDS} {what} in release {release.name}", part)
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
