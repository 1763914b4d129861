"""Features: what the scorer sees of a candidate. One function makes them, for training and for serving.

A feature is a column of a group; a group is what an explanation names and what may be missing as a whole. A value that
is not known is NaN here, and the scorer is told so; it never takes it for a zero.

| group | columns |
|---|---|
| taste | the tower source's score and rank; likeness to the history in the tower space |
| others | the co-visitation source's score and rank; co-visits with the history |
| content | the content source's score and rank; likeness to the history in each content space |
| range | shared categories, brand and attributes with the history |
| popularity | the popularity source's score and rank; the trend: worth of late against worth over all |
| novelty | the arrivals source's score and rank; age |
| price | level, against the history's mean, and how far from it |
| context | hour of the day, how much history there is |
| position | where in a list it was shown; in service the usual place, so that place is not taken for merit |

Beside the columns each pair of candidate and interaction of the history has channels of its own, which the scorer's
attention reads: likeness in every space, co-visits, shared categories, brand and attributes.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from index.protocol import VectorIndex
from serve.core.settings import RETRIEVERS
from serve.recommend.ranking.item_features import TAG_GROUPS, ItemSignals
from serve.recommend.retrieval.candidates import Candidates
from serve.recommend.retrieval.covisitation import Covisitation
from serve.recommend.retrieval.retrievers import TOWER, ItemRenumbering, Items
from serve.recommend.retrieval.score_blend import COUNTS, without_interactions
from serve.recommend.retrieval.user_history import UserHistory

Floats = NDArray[np.float32]
HISTORY = 20  # interactions that a candidate is held against
FADE = 0.8  # of their weight in means with each step back
DAY = 86_400.0
STATISTICS = ("most", "mean", "last")
GROUPS = (
    "taste",
    "others",
    "content",
    "range",
    "popularity",
    "novelty",
    "price",
    "context",
    "position",
    "relations",
)
HISTORY_GROUP = "history"
"""What the scorer's attention adds: not a group of columns, but named beside them."""
_RETRIEVER_GROUPS = {
    TOWER: "taste",
    "covisitation": "others",
    "content": "content",
    "popularity": "popularity",
    "arrivals": "novelty",
    "knowledge": "relations",
}


@dataclass(frozen=True)
class Layout:
    """The columns and channels of a shop: they depend on its content spaces, and on whether it has relations."""

    spaces: tuple[str, ...]
    related: bool = False

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """The channels of a pair, [p]."""
        return (TOWER, *self.spaces, "covisitation", *TAG_GROUPS)

    @cached_property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """Name and group of each column, [f]."""
        retrievers = [retriever for retriever in RETRIEVERS if self.related or retriever != "knowledge"]
        found = [(retriever, _RETRIEVER_GROUPS[retriever]) for retriever in retrievers]
        found += [(f"{retriever}_rank", _RETRIEVER_GROUPS[retriever]) for retriever in retrievers]
        found += [(f"{channel}_{of}", self._group(channel)) for channel in self.channels for of in STATISTICS]
        found += [("trend", "popularity"), ("age", "novelty")]
        found += [(name, "price") for name in ("price", "price_against_usual", "price_distance")]
        found += [("hour_sine", "context"), ("hour_cosine", "context"), ("history", "context")]
        return (*found, ("position", "position"))

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    @cached_property
    def groups(self) -> dict[str, NDArray[np.int64]]:
        """The columns of each group."""
        return {
            group: np.array([place for place, (_, of) in enumerate(self.columns) if of == group], np.int64)
            for group in GROUPS
        }

    def _group(self, channel: str) -> str:
        if channel == TOWER:
            return "taste"
        if channel == "covisitation":
            return "others"
        return "range" if channel in TAG_GROUPS else "content"


@dataclass(frozen=True)
class RankingContext:
    """When a list is asked for (epoch seconds), at what hour of the day, and of each candidate made features of, [m]:
    at what place it was shown, where it was, NaN for nowhere."""

    now: float
    hour: float | None = None
    position: Floats | None = None


@dataclass(frozen=True)
class Features:
    """Of m candidates `values` [m, f] with NaN for what is not known, and `pairs` [m, h, p] with the history.

    Of the h interactions `kinds` [h] number what was done and `gaps` [h] are the seconds since; the latest is last.
    """

    values: Floats
    pairs: Floats
    kinds: NDArray[np.int64]
    gaps: Floats

    def __len__(self) -> int:
        return len(self.values)

    def at(self, places: NDArray[np.int64]) -> "Features":
        """Those of some candidates, in the order given."""
        return Features(self.values[places], self.pairs[places], self.kinds, self.gaps)


class FeatureBuilder:
    """Makes the features of candidates of one shop as it is at one moment; without state.

    `signals_of` gives what is known of items by number; `smoothing` are those of the blend's counts, `numbering`
    says where
    co-visits count items under other numbers, `related` whether there are features of relations.
    """

    def __init__(
        self,
        spaces: Mapping[str, VectorIndex],
        signals_of: Callable[[Items], ItemSignals],
        covisitation: Covisitation,
        smoothing: Mapping[str, float],
        numbering: ItemRenumbering | None = None,
        related: bool = False,
    ) -> None:
        self.layout = Layout(tuple(sorted(name for name in spaces if name != TOWER)), related)
        self._spaces, self._facts_of = spaces, signals_of
        self._covisitation, self._floors, self._numbering = covisitation, smoothing, numbering
        self._hidden = ""

    def without(self, group: str) -> "FeatureBuilder":
        """The same, with a group of features hidden, or HISTORY_GROUP."""
        hiding = copy(self)
        hiding._hidden = group
        return hiding

    def make(
        self, user: UserHistory, found: Candidates, context: RankingContext, places: NDArray[np.int64] | None = None
    ) -> Features:
        """The features of candidates for a shopper; of those at `places` [m] only, which still rank among all."""
        places = np.arange(len(found.items)) if places is None else places
        numbers, recent = found.items[places], user.last(HISTORY)
        items, before = self._facts_of(numbers), self._facts_of(recent.item)
        pairs = self._pairs(recent.item, numbers, before, items)
        columns: dict[str, Floats | float] = {}
        new = without_interactions(found.scores, len(found.items))
        for retriever in RETRIEVERS:
            scores = found.scores.get(retriever)
            if scores is not None:
                if retriever in COUNTS and new.any():  # that nobody had it yet does not say that nobody wants it
                    scores = np.where(new, np.nan, scores).astype(np.float32)
                columns[retriever] = self._scaled(retriever, scores[places])
                columns[f"{retriever}_rank"] = _ranks(scores)[places]
        liked = recent.weight > 0
        if liked.any():
            worth = (FADE ** np.arange(int(liked.sum())))[::-1].astype(np.float32)
            of_liked = pairs[:, liked]  # [m, liked, p]
            statistics = of_liked.max(1), np.einsum("mhp,h->mp", of_liked, worth / worth.sum()), of_liked[:, -1]
            for of, values in zip(STATISTICS, statistics, strict=True):
                columns |= {f"{channel}_{of}": values[:, place] for place, channel in enumerate(self.layout.channels)}
            usual = before.price[liked]
            if (~np.isnan(usual)).any():
                columns["price_against_usual"] = items.price - np.float32(np.nanmean(usual))
                columns["price_distance"] = np.abs(columns["price_against_usual"])
        columns["price"] = items.price
        columns["trend"] = items.trend
        columns["age"] = np.log2(1 + np.maximum(0, context.now - items.first_seen) / DAY).astype(np.float32)
        columns["history"] = float(np.log2(1 + len(user)))
        if context.hour is not None:
            angle = 2 * np.pi * context.hour / 24
            columns |= {"hour_sine": float(np.sin(angle)), "hour_cosine": float(np.cos(angle))}
        if context.position is not None:
            columns["position"] = np.log2(1 + context.position)
        values = np.full((len(numbers), len(self.layout.names)), np.nan, np.float32)
        for place, name in enumerate(self.layout.names):
            if name in columns:
                values[:, place] = columns[name]
        gaps = np.maximum(0, context.now - recent.time).astype(np.float32)
        if self._hidden == HISTORY_GROUP:
            return Features(values, pairs[:, :0], recent.kind[:0], gaps[:0])
        if self._hidden:
            values[:, self.layout.groups[self._hidden]] = np.nan
        return Features(values, pairs, recent.kind, gaps)

    def _pairs(self, history: Items, items: Items, of_history: ItemSignals, of_items: ItemSignals) -> Floats:
        pairs = np.zeros((len(items), len(history), len(self.layout.channels)), np.float32)
        if not len(history) or not len(items):
            return pairs
        for place, channel in enumerate(self.layout.channels):
            if channel in self._spaces:
                index = self._spaces[channel]
                pairs[:, :, place] = index.vectors_of(items) @ index.vectors_of(history).T
            elif channel == "covisitation":
                pairs[:, :, place] = self._scaled(channel, self._together(history, items))
        pairs[:, :, -len(TAG_GROUPS) :] = of_items.shared(of_history)
        return pairs

    def _together(self, history: Items, items: Items) -> Floats:
        if self._numbering is not None:
            history, items = self._numbering.before[history], self._numbering.before[items]
        return self._covisitation.pairs(history, items)

    def _scaled(self, retriever: str, scores: Floats) -> Floats:
        """Scores of a source as the blend takes them: counts by their logarithm."""
        return np.log1p(scores / np.float32(self._floors.get(retriever, 1.0))) if retriever in COUNTS else scores


def _ranks(scores: Floats) -> Floats:
    """The logarithm of each candidate's place by a source, ties sharing the first; NaN where its score is not known."""
    falling = np.sort(-scores)  # what is not known comes last
    return np.where(np.isnan(scores), np.nan, np.log2(2 + np.searchsorted(falling, -scores))).astype(np.float32)


def hour_of(time: float) -> float:
    """The hour of the day, UTC, of a moment in epoch seconds, 0 to 24."""
    return time / 3600 % 24
