"""Finding: the items nearest to what is sought, in each source and by all of them together."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.errors import BadQuery, IndexFault
from index.exact import top
from index.protocol import VectorIndex
from index.selection import Selection
from serve.core.request_context import mark_partial
from serve.engine.recall_monitor import RecallMonitor
from serve.recommend.ranking.explanations import Reasons
from serve.release.snapshot import Snapshot
from serve.search.fusion import fuse
from serve.search.vocabulary import KEYWORDS

DEPTH = 50  # candidates each source proposes before fusion, at the least
FEW = 100  # items left out up to which a search asks for that many more instead of filtering
Scores = Mapping[str, NDArray[np.float32]]


class Hit(NamedTuple):
    """An item of an answer. `sources` gives its cosine in each space that was asked, and its BM25 for the
    words; `image` is its best image.

    Where a scorer ranked, `probabilities` are the probabilities of each head, and `score` is what can be expected of
    them.
    """

    item_index: int
    score: float
    retriever_scores: dict[str, float]
    image: int | None
    probabilities: dict[str, float] | None = None
    reasons: Reasons | None = None
    rules: Sequence[str] = ()


@dataclass(frozen=True)
class KeywordScores:
    """BM25 of all items for a query's words [items], -inf for who is gone, and how much each source counts then."""

    scores: NDArray[np.float32]
    weights: Mapping[str, float]

    @cached_property
    def found(self) -> bool:
        """Whether any item has any of them."""
        return bool((self.scores > 0).any())


class HybridSearch:
    """Finds items in a view, by spaces that count by `weights`. Safe in several threads."""

    def __init__(
        self,
        view: Snapshot,
        spaces: Mapping[str, VectorIndex],
        weights: Mapping[str, float],
        probe: RecallMonitor | None = None,
    ) -> None:
        self._view, self._spaces, self._weights, self._probe = view, spaces, weights, probe

    def find(
        self,
        vectors: Scores,
        words: KeywordScores | None,
        k: int,
        excluded: Sequence[int],
        allowed: Selection | None,
    ) -> list[Hit]:
        """The k items that are best by the `vectors` of a query in some spaces, and by its words.

        A space whose engine does not answer is left out, unless it is all there is.
        """
        while True:
            try:
                return self._find(vectors, words, k, excluded, allowed)
            except _SpaceUnavailable as failed:
                vectors = {space: vector for space, vector in vectors.items() if space != failed.space}
                if not vectors and words is None:
                    raise failed.fault from failed
                mark_partial(failed.space)

    def _find(
        self,
        vectors: Scores,
        words: KeywordScores | None,
        k: int,
        excluded: Sequence[int],
        allowed: Selection | None,
    ) -> list[Hit]:
        if words is not None and not words.found and vectors:
            words = None  # words that no item has are no source
        indexes = {space: self._spaces[space] for space in vectors}
        if all(index.factory == "Flat" for index in indexes.values()):
            # Exact search scores every item anyway, so the fused order is exact too.
            items = self._view.everything
            scores = {space: index.scores_of_all(vectors[space]) for space, index in indexes.items()}
            backgrounds: Scores = scores
        else:
            items = self._candidates(vectors, words, k, excluded, allowed)
            scores = {}
            for space, index in indexes.items():
                with _answering(space):
                    scores[space] = index.scores_of(vectors[space], items)
            backgrounds = {space: self._view.release.samples[space] @ vector for space, vector in vectors.items()}
        if words is not None:
            scores[KEYWORDS], backgrounds = words.scores[items], {**backgrounds, KEYWORDS: words.scores}
        if len(scores) > 1:
            total = fuse(scores, backgrounds, self._weights if words is None else words.weights)
        else:  # of a single source its own
            ((name, own),) = scores.items()
            total = np.where(own > 0, own, -np.inf) if name == KEYWORDS else own.copy()
        total[places_among(items, excluded)] = -np.inf
        if allowed is not None:
            total[~allowed.mask[items]] = -np.inf
        best = top(total, items, k)
        item_indices = items[best].tolist()
        images: Sequence[int | None] = [None] * len(best)
        if "image" in vectors:
            images = indexes["image"].best_labels(vectors["image"], item_indices)
        by_retriever = {name: of[best] for name, of in scores.items()}
        if words is not None:
            by_retriever[KEYWORDS] = np.where(by_retriever[KEYWORDS] > 0, by_retriever[KEYWORDS], -np.inf)
        columns = zip(*map(rounded, by_retriever.values()), strict=True)
        sources = [
            {name: score for name, score in zip(by_retriever, each, strict=True) if score > -np.inf} for each in columns
        ]
        return list(map(Hit, item_indices, rounded(total[best]), sources, images))

    def _candidates(
        self,
        vectors: Scores,
        words: KeywordScores | None,
        k: int,
        excluded: Sequence[int],
        allowed: Selection | None,
    ) -> NDArray[np.int64]:
        """Items that any of the sources proposes, in rising order. A few too many are cheaper than a filter."""
        depth = k if len(vectors) == 1 and words is None else max(DEPTH, 2 * k)
        if len(excluded) <= FEW:
            depth += len(excluded)
        else:
            mask = np.ones(self._view.items, dtype=np.bool_) if allowed is None else allowed.mask.copy()
            mask[excluded] = False
            if allowed is None:
                mask[self._view.deleted] = False
            allowed = Selection(mask)
        proposed = []
        for space, vector in vectors.items():
            index = self._spaces[space]
            with _answering(space):
                hits = index.search(vector[None], depth, allowed)
            proposed.append(hits.ids[0, : hits.counts[0]])
            if self._probe is not None and index.factory != "Flat":
                self._probe.offer(space, index, vector, proposed[-1], allowed)
        if words is not None:
            scores = words.scores if allowed is None else np.where(allowed.mask, words.scores, -np.inf)
            best = top(scores, self._view.everything, depth)
            proposed.append(best[scores[best] > 0])
        return np.unique(np.concatenate(proposed))


def places_among(items: NDArray[np.int64], wanted: Sequence[int]) -> NDArray[np.int64]:
    """Where the wanted ones are among items in rising order, as far as they are there."""
    item_indices = np.array(wanted, np.int64)
    places = items.searchsorted(item_indices)
    within = places < len(items)
    places, item_indices = places[within], item_indices[within]
    found: NDArray[np.int64] = places[items[places] == item_indices]
    return found


class _SpaceUnavailable(Exception):
    """What keeps the vectors of a space did not answer."""

    def __init__(self, space: str, fault: IndexFault) -> None:
        super().__init__(space)
        self.space, self.fault = space, fault


@contextmanager
def _answering(space: str) -> Iterator[None]:
    try:
        yield
    except BadQuery:
        raise
    except IndexFault as fault:
        raise _SpaceUnavailable(space, fault) from fault


def rounded(scores: NDArray[np.float32]) -> list[float]:
    """Scores as answers have them."""
    return scores.astype(np.float64).round(4).tolist()  # type: ignore[no-any-return]
