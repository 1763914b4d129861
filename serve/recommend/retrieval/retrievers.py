"""Sources: what may propose candidates. Each scores any item in a unit of its own, and proposes its best.

| source | proposes | its score |
|---|---|---|
| tower | what the two towers place near what the shopper just did | cosine |
| covisitation | what others went to after the shopper's items | scaled count, 0 for none |
| popularity | what many shoppers like lately | shoppers, each halved by age |
| arrivals | what is new in the catalogue | 1 on the first day, halved by age |
| content | what looks and reads like the shopper's items | standard deviations above a random item |
| knowledge | what goes with the shopper's items by the shop's own table | 1 for the best link, 0 for none |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Interactions
from index.exact import top
from index.protocol import VectorIndex
from index.selection import Selection
from serve.recommend.retrieval.covisitation import DAY, Covisitation
from serve.recommend.retrieval.user_history import UserHistory
from serve.search.fusion import fuse

TOWER = "tower"
"""The name of the source and of the space that the towers make."""
Items = NDArray[np.int64]
Scores = NDArray[np.float32]
RECENT = 10  # items of a history that content neighbours are taken of
FADE = 0.8  # of their weight with each step back
LATELY = 4


class Proposals(Protocol):
    """What a source says for one shopper."""

    def scores(self, items: Items) -> Scores:
        """The scores of m distinct items, given in rising order, [m]."""

    def propose(self, depth: int, allowed: Selection | None) -> Items:
        """At most about `depth` of the best items that are allowed."""


class Retriever(Protocol):
    def ask(self, user: UserHistory) -> Proposals | None:
        """What the source says for a shopper; None where it has nothing to go by."""


@dataclass(frozen=True)
class ItemRenumbering:
    """How items are numbered now, beside how they were when behaviour was counted; -1 for none.

    `before` [items now] is the number then of each item, `now` [items then] the number now.
    """

    before: Items
    now: Items


class TowerRetriever:
    """The neighbours of the shopper's vector in the tower space."""

    def __init__(self, index: VectorIndex, vector: Callable[[UserHistory], NDArray[np.float32] | None]) -> None:
        self._index, self._vector = index, vector

    def ask(self, user: UserHistory) -> Proposals | None:
        query = self._vector(user)
        return None if query is None else _Near({"tower": self._index}, {"tower": query})


class CovisitationRetriever:
    """What others went to after the shopper's items."""

    def __init__(self, counts: Covisitation, numbering: ItemRenumbering | None = None) -> None:
        self._counts, self._numbering = counts, numbering

    def ask(self, user: UserHistory) -> Proposals | None:
        history = user.item if self._numbering is None else self._numbering.before[user.item]
        items, scores = self._counts.reached(history[history >= 0], user.weight[history >= 0])
        if self._numbering is not None:
            items = self._numbering.now[items]
            order = items.argsort(kind="stable")[np.count_nonzero(items < 0) :]
            items, scores = items[order], scores[order]
        return Few(items, scores) if len(items) else None


class FixedRetriever:
    """Scores that do not depend on the shopper: popularity, arrivals. Items of score 0 are not proposed.

    `order` are the items of another score by number, best first, as `ranked` gives them.
    """

    def __init__(self, scores: Scores, order: Items, numbering: ItemRenumbering | None = None) -> None:
        self._proposals = _Ordered(scores, order, numbering)

    def ask(self, user: UserHistory) -> Proposals | None:
        return self._proposals


class ContentRetriever:
    """What looks and reads like the shopper's last items: each space's neighbours of their common direction."""

    def __init__(
        self,
        spaces: Mapping[str, VectorIndex],
        samples: Mapping[str, NDArray[np.float32]],
        weights: Mapping[str, float],
    ) -> None:
        self._spaces, self._samples, self._weights = spaces, samples, weights

    def ask(self, user: UserHistory) -> Proposals | None:
        liked = user.item[user.weight > 0][-RECENT:][::-1]
        worth = (FADE ** np.arange(len(liked))).astype(np.float32)
        queries = {}
        for space, index in self._spaces.items():
            total = worth @ index.vectors_of(liked)
            length = float(np.linalg.norm(total))
            if length > 1e-6:
                queries[space] = total / np.float32(length)
        return _Near(self._spaces, queries, self._samples, self._weights) if queries else None


class _Near:
    """Items near a query in each of some spaces; cosines of one, or standard deviations where samples are given."""

    def __init__(
        self,
        spaces: Mapping[str, VectorIndex],
        queries: Mapping[str, NDArray[np.float32]],
        samples: Mapping[str, NDArray[np.float32]] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self._spaces, self._queries, self._samples, self._weights = spaces, queries, samples, weights or {}

    def scores(self, items: Items) -> Scores:
        scores = {space: self._spaces[space].scores_of(query, items) for space, query in self._queries.items()}
        if self._samples is None:
            (found,) = scores.values()
        else:
            backgrounds = {space: self._samples[space] @ query for space, query in self._queries.items()}
            found = fuse(scores, backgrounds, self._weights)
        return np.where(found == -np.inf, 0, found).astype(np.float32)  # as an average item, where nothing is known

    def propose(self, depth: int, allowed: Selection | None) -> Items:
        found = []
        for space, query in self._queries.items():
            hits = self._spaces[space].search(query[None], depth, allowed)
            found.append(hits.ids[0, : hits.counts[0]])
        return found[0] if len(found) == 1 else np.unique(np.concatenate(found))


class Few:
    """Some items in rising order, [m], and their scores, [m]; all others score 0."""

    def __init__(self, items: Items, scores: Scores) -> None:
        self._items, self._scores = items, scores

    def scores(self, items: Items) -> Scores:
        at = self._items.searchsorted(items).clip(max=len(self._items) - 1)
        return np.where(self._items[at] == items, self._scores[at], 0).astype(np.float32)

    def propose(self, depth: int, allowed: Selection | None) -> Items:
        items, scores = self._items, self._scores
        if allowed is not None:
            there = allowed.mask[items]
            items, scores = items[there], scores[there]
        return items[top(scores, items, depth)]


class _Ordered:
    """A score for every item, and the items of one in order, all as they were numbered when it was counted."""

    def __init__(self, scores: Scores, order: Items, numbering: ItemRenumbering | None) -> None:
        self._scores, self._order, self._numbering = scores, order, numbering

    def scores(self, items: Items) -> Scores:
        if self._numbering is None:
            return self._scores[items]
        before = self._numbering.before[items]
        return np.where(before >= 0, self._scores[before], 0).astype(np.float32)

    def propose(self, depth: int, allowed: Selection | None) -> Items:
        taken: list[Items] = []
        wanted, start, step = depth, 0, depth
        while wanted > 0 and start < len(self._order):
            items = self._order[start : start + step]
            start, step = start + step, 4 * step
            if self._numbering is not None:
                items = self._numbering.now[items]
                items = items[items >= 0]
            if allowed is not None:
                items = items[allowed.mask[items]]
            taken.append(items[:wanted])
            wanted -= len(taken[-1])
        return np.concatenate(taken) if taken else np.empty(0, np.int64)


def ranked(scores: Scores) -> Items:
    """The items that have a score, best first, ties by number."""
    return np.argsort(-scores, kind="stable")[: np.count_nonzero(scores)]


def popularity(interactions: Interactions, now: float, half_life_days: float) -> Scores:
    """How many shoppers like each item, [items], each counting half for each half-life since.

    Every shopper counts once for an item, at the latest time, so that robots and floods do not rule.
    """
    liked = interactions.where(interactions.weight > 0)
    pair = liked.user * max(1, liked.items) + liked.item
    order = np.lexsort((-liked.time, pair))
    latest = order[np.unique(pair[order], return_index=True)[1]]
    worth = 0.5 ** (np.maximum(0, now - liked.time[latest]) / (DAY * half_life_days))
    return np.bincount(liked.item[latest], weights=worth, minlength=liked.items).astype(np.float32)


def trend(popular: Scores, of_late: Scores) -> Scores:
    """Whether items are wanted more of late than over all, [items]: 0 for as much, 1 for twice; NaN where never.

    `of_late` is popularity with a half-life LATELY times shorter, of which steady demand leaves that much less.
    """
    with np.errstate(invalid="ignore"):
        found = np.log2((LATELY * of_late + 1) / (popular + 1))
    return np.where(popular > 0, found, np.nan).astype(np.float32)


def arrivals(first_seen: NDArray[np.float64], now: float, half_life_days: float) -> Scores:
    """How new items are, [items]: 1 at `now`, halved for each half-life; 0 beyond ten, and at an unknown age (NaN)."""
    age = np.maximum(0, now - first_seen) / (DAY * half_life_days)
    return np.where(age <= 10, 0.5**age, 0).astype(np.float32)
