"""Hybrid search: the items that match a query best in several spaces and by keywords."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.errors import InvalidQuery, VectorIndexError
from index.item_mask import ItemMask
from index.protocol import VectorIndex
from index.top_k import TIE, top_k
from serve.core.request_context import mark_partial
from serve.engine.recall_monitor import RecallMonitor
from serve.recommend.ranking.explanations import Reasons
from serve.release.snapshot import Snapshot
from serve.search.fusion import fuse
from serve.search.vocabulary import KEYWORDS

MIN_DEPTH = 50  # candidates that each retriever proposes before fusion
MAX_OVERFETCHED = 100  # excluded items up to which a search fetches that many more items instead of filtering
Scores = Mapping[str, NDArray[np.float32]]


class Hit(NamedTuple):
    """An item of a response. `retriever_scores` has its cosine in each searched space, and its BM25 score.

    `image` is the position of the item's image that matches best. Where a scorer ranked, `probabilities` are those of
    each head, and `score` is the expected value.
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
    """BM25 of all items for a query's text [items], -inf for deleted ones, and the weight of each retriever with it."""

    scores: NDArray[np.float32]
    weights: Mapping[str, float]

    @cached_property
    def has_matches(self) -> bool:
        """Whether any item contains any of the words."""
        return bool((self.scores > 0).any())


class HybridSearch:
    """Finds items of a snapshot, by spaces with `weights`. Safe in several threads."""

    def __init__(
        self,
        snapshot: Snapshot,
        spaces: Mapping[str, VectorIndex],
        weights: Mapping[str, float],
        recall_monitor: RecallMonitor | None = None,
    ) -> None:
        self._snapshot, self._spaces, self._weights = snapshot, spaces, weights
        self._recall_monitor = recall_monitor

    def find(
        self,
        vectors: Scores,
        keywords: KeywordScores | None,
        k: int,
        excluded: Sequence[int],
        allowed: ItemMask | None,
    ) -> list[Hit]:
        """Return the k best items by a query's vectors and keywords.

        A space whose vector database does not respond is left out, unless nothing else was searched.

        Args:
            vectors: the query's unit vector in each space to search, [dim].
            keywords: the keyword scores of its text, if any.
            k: how many items to return.
            excluded: item indices that are not returned.
            allowed: the only items that may be returned; None for all.
        """
        while True:
            try:
                return self._find(vectors, keywords, k, excluded, allowed)
            except _SpaceUnavailable as failed:
                vectors = {space: vector for space, vector in vectors.items() if space != failed.space}
                if not vectors and keywords is None:
                    raise failed.fault from failed
                mark_partial(failed.space)

    def _find(
        self,
        vectors: Scores,
        keywords: KeywordScores | None,
        k: int,
        excluded: Sequence[int],
        allowed: ItemMask | None,
    ) -> list[Hit]:
        if keywords is not None and not keywords.has_matches and vectors:
            keywords = None
        indexes = {space: self._spaces[space] for space in vectors}
        if all(index.factory == "Flat" for index in indexes.values()):
            # Exact search scores every item anyway, so the fused order is exact too.
            items = self._snapshot.everything
            scores = {space: index.score_all_items(vectors[space]) for space, index in indexes.items()}
            backgrounds: Scores = scores
        else:
            items = self._candidates(vectors, keywords, k, excluded, allowed)
            scores = {}
            for space, index in indexes.items():
                with _unavailable_as(space):
                    scores[space] = index.score_items(vectors[space], items)
            samples = self._snapshot.release.samples
            backgrounds = {space: samples[space] @ vector for space, vector in vectors.items()}
        if keywords is not None:
            scores[KEYWORDS], backgrounds = keywords.scores[items], {**backgrounds, KEYWORDS: keywords.scores}
        total = self._total(scores, backgrounds, keywords)
        total[positions_among(items, excluded)] = -np.inf
        if allowed is not None:
            total[~allowed.mask[items]] = -np.inf
        best = top_k(total, items, k, TIE if [*scores] == [*vectors] and len(scores) == 1 else 0.0)
        item_indices = items[best].tolist()
        images: Sequence[int | None] = [None] * len(best)
        if "image" in vectors:
            images = indexes["image"].best_labels(vectors["image"], item_indices)
        by_retriever = {name: of_items[best] for name, of_items in scores.items()}
        if keywords is not None:
            by_retriever[KEYWORDS] = np.where(by_retriever[KEYWORDS] > 0, by_retriever[KEYWORDS], -np.inf)
        rows = zip(*map(rounded, by_retriever.values()), strict=True)
        retriever_scores = [
            {name: score for name, score in zip(by_retriever, row, strict=True) if score > -np.inf} for row in rows
        ]
        return list(map(Hit, item_indices, rounded(total[best]), retriever_scores, images))

    def _total(self, scores: Scores, backgrounds: Scores, keywords: KeywordScores | None) -> NDArray[np.float32]:
        """Return the fused scores [items]; the scores of a single retriever stay as they are."""
        if len(scores) > 1:
            return fuse(scores, backgrounds, self._weights if keywords is None else keywords.weights)
        ((name, only),) = scores.items()
        return np.where(only > 0, only, -np.inf) if name == KEYWORDS else only.copy()

    def _candidates(
        self,
        vectors: Scores,
        keywords: KeywordScores | None,
        k: int,
        excluded: Sequence[int],
        allowed: ItemMask | None,
    ) -> NDArray[np.int64]:
        """Return the items that any retriever proposes, in rising order. A few too many are cheaper than a filter."""
        depth = k if len(vectors) == 1 and keywords is None else max(MIN_DEPTH, 2 * k)
        if len(excluded) <= MAX_OVERFETCHED:
            depth += len(excluded)
        else:
            mask = np.ones(self._snapshot.items, dtype=np.bool_) if allowed is None else allowed.mask.copy()
            mask[excluded] = False
            if allowed is None:
                mask[self._snapshot.deleted] = False
            allowed = ItemMask(mask)
        proposed = []
        for space, vector in vectors.items():
            index = self._spaces[space]
            with _unavailable_as(space):
                hits = index.search(vector[None], depth, allowed)
            proposed.append(hits.items[0, : hits.counts[0]])
            if self._recall_monitor is not None and index.factory != "Flat":
                self._recall_monitor.offer(space, index, vector, proposed[-1], allowed)
        if keywords is not None:
            scores = keywords.scores if allowed is None else np.where(allowed.mask, keywords.scores, -np.inf)
            best = top_k(scores, self._snapshot.everything, depth)
            proposed.append(best[scores[best] > 0])
        return np.unique(np.concatenate(proposed))


def positions_among(items: NDArray[np.int64], item_indices: Sequence[int]) -> NDArray[np.int64]:
    """Return the positions of some item indices among `items` in rising order, without those that are not there."""
    searched = np.array(item_indices, np.int64)
    positions = items.searchsorted(searched)
    within = positions < len(items)
    positions, searched = positions[within], searched[within]
    present: NDArray[np.int64] = positions[items[positions] == searched]
    return present


class _SpaceUnavailable(Exception):
    """The vector database of a space did not respond."""

    def __init__(self, space: str, fault: VectorIndexError) -> None:
        super().__init__(space)
        self.space, self.fault = space, fault


@contextmanager
def _unavailable_as(space: str) -> Iterator[None]:
    """Raise _SpaceUnavailable for the faults of an index."""
    try:
        yield
    except InvalidQuery:
        raise
    except VectorIndexError as fault:
        raise _SpaceUnavailable(space, fault) from fault


def rounded(scores: NDArray[np.float32]) -> list[float]:
    """Round scores as in responses, to four decimals."""
    return scores.astype(np.float64).round(4).tolist()  # type: ignore[no-any-return]
