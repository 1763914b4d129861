"""Queries, and their vectors: text, photo and example items as one vector for each space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.catalogue import is_blank
from embed.encoders import ImageEncoder, TextEncoder, Vectors
from embed.errors import Unavailable
from embed.images import ImageLimits, decode_pixels
from serve.core.errors import BadRequest
from serve.core.request_context import mark_partial
from serve.engine.engine_context import EngineContext
from serve.engine.query_encoders import Encoders
from serve.recommend.retrieval.retriever import TOWER
from serve.release.release import Release
from serve.search.vocabulary import KEYWORDS

PART_WEIGHTS = {"text": 1.0, "image": 1.0, "like": 1.0, "unlike": 0.5}


@dataclass(frozen=True)
class Query:
    """A search for k items by any of text, a photo (its bytes), liked and unliked items; `weights` of these parts.

    `spaces` limits the search to some spaces; by default every space is searched that some part of the query can enter.
    Only items that pass the `filter` are returned.
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
    context: EngineContext,
    query: Query,
    spaces: Sequence[str],
    takes_keywords: bool = False,
    needs_all: bool = False,
) -> dict[str, NDArray[np.float32]]:
    """Return one unit vector for each space that the query enters: the weighted sum of its parts there.

    Source: Rocchio 1971. A space whose encoder is on a server that does not respond is left out of the search, unless
    nothing else is searched.

    Args:
        context: the snapshot, its spaces and encoders.
        query: the query.
        spaces: the names of the spaces to search.
        takes_keywords: whether its text is searched by keywords too, and so may enter no space.
        needs_all: whether no space may be left out.

    Raises:
        BadRequest: the query is empty, or no space takes a part of it.
        Unavailable: the server of an encoder does not respond, and nothing else is searched or `needs_all` is set.
    """
    weights = PART_WEIGHTS | dict(query.weights)
    if query.text is not None and is_blank(query.text):
        raise BadRequest("text is blank: write some words, or leave it out", "text", "blank_text")
    if query.text is None and query.image is None and not query.like:
        raise BadRequest("the query is empty: send text, image or like", "text", "empty_query")
    liked, unliked = (
        [context.item_index(item_id, name) for item_id in ids]
        for name, ids in (("like", query.like), ("unlike", query.unlike))
    )
    release = context.snapshot.release
    encoder = _QueryPartEncoder(release, context.encoders)
    parts: dict[str, list[tuple[NDArray[np.float32], float]]] = {}
    entered = {"text"} if takes_keywords else set[str]()
    unavailable: dict[str, Unavailable] = {}
    for space in spaces:
        index, in_space = context.spaces[space], parts.setdefault(space, [])
        try:
            if query.text is not None and (vector := encoder.text(space, query.text)) is not None:
                in_space.append((vector[0], weights["text"]))
                entered.add("text")
            if query.image is not None and space == "image":
                in_space.append((encoder.photo(query.image, context.settings.image_limits)[0], weights["image"]))
                entered.add("image")
        except Unavailable as fault:
            if needs_all:
                raise
            unavailable[space] = fault
            entered |= {"text", "image"} if space == "image" else {"text"}
        for part, item_indices, weight in (("like", liked, weights["like"]), ("unlike", unliked, -weights["unlike"])):
            for vector in index.first_vectors(np.array(item_indices, np.int64)):
                if vector.any():
                    in_space.append((vector, weight))
                    entered.add(part)
    for part, value, ability in (
        ("text", query.text, "takes text"),
        ("image", query.image, "takes photos"),
        ("like", query.like or None, "has the liked items"),
    ):
        if value is not None and part not in entered:
            searched = ", ".join(spaces) or KEYWORDS
            raise BadRequest(f"no space of {searched} {ability} in release {release.name}", part)
    directions = {
        space: direction
        for space, in_space in parts.items()
        if space not in unavailable
        and any(weight > 0 for _, weight in in_space)
        and (direction := weighted_direction([vector for vector, _ in in_space], [weight for _, weight in in_space]))
        is not None
    }
    if unavailable and not directions and not takes_keywords:
        raise next(iter(unavailable.values()))
    for space in unavailable:
        mark_partial(space)
    if not directions and not unavailable and any(parts.values()):
        raise BadRequest("the parts of the query cancel each other out: change their weights", "weights")
    return directions


class _QueryPartEncoder:
    """Encodes the text and the photo of one query into the spaces of a release."""

    def __init__(self, release: Release, encoders: Encoders) -> None:
        self._manifest, self._alignment, self._encoders = release.manifest, release.alignment, encoders

    def text(self, space: str, text: str) -> Vectors | None:
        """Return a text's vector in a space, [1, dim]; None where the space takes no text."""
        if space == TOWER:
            return None
        if space == "image" and self._alignment is not None and self._alignment.has_text_adapter:
            encoded_by = "image" if self._alignment.facts.joint else "text"
            return self._alignment.adapt_texts(self._encoders.encode_text(self._manifest, encoded_by, text))
        if not isinstance(self._encoders.encoder(self._manifest, space), TextEncoder):
            return None
        return self._encoders.encode_text(self._manifest, space, text)

    def photo(self, image: bytes, limits: ImageLimits) -> Vectors:
        """Return a photo's vector in the image space, [1, dim]."""
        encoder = self._encoders.encoder(self._manifest, "image")
        assert isinstance(encoder, ImageEncoder)  # noqa: S101  the encoder of an image space is one
        pixels = encoder.prepare(decode_pixels(image, limits, shrink_to=encoder.shrink_to))
        vectors = self._encoders.ask(encoder, lambda: encoder.encode_images([pixels]))
        return vectors if self._alignment is None else self._alignment.adapt_photos(vectors)


def weighted_direction(vectors: Sequence[NDArray[np.float32]], weights: Sequence[float]) -> NDArray[np.float32] | None:
    """Return the unit vector along a weighted sum, or None where the sum vanishes."""
    if len(vectors) == 1 and weights[0] > 0:
        return vectors[0]
    total = np.sum([weight * vector for vector, weight in zip(vectors, weights, strict=True)], axis=0)
    length = float(np.linalg.norm(total))
    return (total / length).astype(np.float32) if length > 1e-6 else None
