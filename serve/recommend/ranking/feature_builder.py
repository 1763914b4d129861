"""Builds the feature matrix of candidates. One function builds it, for training and for requests.

Beside its columns, each pair of a candidate and an interaction of the history has channels, which the scorer's
attention reads: likeness in every space, co-visits, shared categories, brand and attributes.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from index.protocol import VectorIndex
from serve.recommend.feature_groups import FEATURE_GROUPS
from serve.recommend.ranking.feature import (
    HISTORY,
    FeatureColumn,
    FeatureContext,
    FeatureInputs,
    ShopSchema,
    scale_score,
)
from serve.recommend.ranking.feature_registry import FEATURES
from serve.recommend.ranking.item_signals import TAG_GROUPS, ItemSignals
from serve.recommend.retrieval.candidates import Candidates
from serve.recommend.retrieval.covisitation import Covisitation
from serve.recommend.retrieval.retriever import TOWER, ItemIndexMapping, Items
from serve.recommend.retrieval.user_history import UserHistory

Floats = NDArray[np.float32]
HISTORY_GROUP = "history"
"""What the scorer's attention adds: no group of columns, but named like one."""


@dataclass(frozen=True)
class FeatureLayout(ShopSchema):
    """The columns of the feature matrix of a shop."""

    @cached_property
    def columns(self) -> tuple[FeatureColumn, ...]:
        """All columns, [f]."""
        return tuple(column for feature in FEATURES for column in feature.columns(self))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The name of each column, [f]."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def groups(self) -> dict[str, NDArray[np.int64]]:
        """The columns of each group, in the order in which explanations reveal groups."""
        names = dict.fromkeys(group.name for group in (*FEATURE_GROUPS, *(column.group for column in self.columns)))
        return {
            name: np.array([row for row, column in enumerate(self.columns) if column.group.name == name], np.int64)
            for name in names
        }

    @cached_property
    def wordings(self) -> dict[str, str]:
        """The wording of each group that a reason may name."""
        groups = (*FEATURE_GROUPS, *(column.group for column in self.columns))
        return {group.name: group.wording for group in groups if group.wording}


@dataclass(frozen=True)
class FeatureMatrix:
    """The features of m candidates.

    Attributes:
        values: The columns, [m, f]; NaN for unknown.
        pairs: The channels of each candidate and interaction, [m, h, p].
        kinds: The type of each interaction, [h], as embed.behaviour.interactions numbers them; the latest is last.
        gaps: The seconds since each interaction, [h].
    """

    values: Floats
    pairs: Floats
    kinds: NDArray[np.int64]
    gaps: Floats

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[np.int64]) -> "FeatureMatrix":
        """Return the features of some candidates, in that order."""
        return FeatureMatrix(self.values[rows], self.pairs[rows], self.kinds, self.gaps)


class FeatureBuilder:
    """Builds features from the data of one shop at one time; without state.

    Args:
        spaces: The vector indexes of the shop, the tower space included.
        signals_of: Returns the signals of items by item index.
        covisitation: The co-visitation counts.
        smoothing: The smoothing constants of the score model.
        index_mapping: How `covisitation` numbers items, if not by the item indices of the candidates.
        related: Whether there are features of item relations.
    """

    def __init__(
        self,
        spaces: Mapping[str, VectorIndex],
        signals_of: Callable[[Items], ItemSignals],
        covisitation: Covisitation,
        smoothing: Mapping[str, float],
        index_mapping: ItemIndexMapping | None = None,
        related: bool = False,
    ) -> None:
        self.layout = FeatureLayout(tuple(sorted(name for name in spaces if name != TOWER)), related)
        self._spaces, self._signals_of = spaces, signals_of
        self._covisitation, self._smoothing, self._index_mapping = covisitation, smoothing, index_mapping
        self._hidden = ""

    def hide(self, group: str) -> "FeatureBuilder":
        """Return a builder that hides a group of features, or HISTORY_GROUP."""
        builder = copy(self)
        builder._hidden = group
        return builder

    def build(
        self,
        user: UserHistory,
        candidates: Candidates,
        context: FeatureContext,
        rows: NDArray[np.int64] | None = None,
    ) -> FeatureMatrix:
        """Build the features of candidates for a user.

        Args:
            user: The history.
            candidates: All candidates, among which ranks are taken.
            context: The circumstances.
            rows: The rows [m] of the candidates that features are built for; None for all.
        """
        rows = np.arange(len(candidates)) if rows is None else rows
        items, recent = candidates.items[rows], user.last(HISTORY)
        signals, recent_signals = self._signals_of(items), self._signals_of(recent.item)
        pairs = self._pairs(items, recent.item, signals, recent_signals)
        inputs = FeatureInputs(
            user, recent, candidates, rows, signals, recent_signals, pairs, context, self.layout, self._smoothing
        )
        computed = {name: values for feature in FEATURES for name, values in feature.compute(inputs).items()}
        values = np.full((len(items), len(self.layout.names)), np.nan, np.float32)
        for column, name in enumerate(self.layout.names):
            if name in computed:
                values[:, column] = computed[name]
        gaps = np.maximum(0, context.now - recent.time).astype(np.float32)
        if self._hidden == HISTORY_GROUP:
            return FeatureMatrix(values, pairs[:, :0], recent.kind[:0], gaps[:0])
        if self._hidden:
            values[:, self.layout.groups[self._hidden]] = np.nan
        return FeatureMatrix(values, pairs, recent.kind, gaps)

    def _pairs(self, items: Items, history: Items, signals: ItemSignals, history_signals: ItemSignals) -> Floats:
        """Return what m items and h interactions have in common, [m, h, p]."""
        pairs = np.zeros((len(items), len(history), len(self.layout.channels)), np.float32)
        if not len(history) or not len(items):
            return pairs
        for column, channel in enumerate(self.layout.channels):
            if channel in self._spaces:
                index = self._spaces[channel]
                pairs[:, :, column] = index.first_vectors(items) @ index.first_vectors(history).T
            elif channel == "covisitation":
                pairs[:, :, column] = scale_score(channel, self._covisits(history, items), self._smoothing)
        pairs[:, :, -len(TAG_GROUPS) :] = signals.shared_tags(history_signals)
        return pairs

    def _covisits(self, history: Items, items: Items) -> Floats:
        if self._index_mapping is not None:
            history, items = self._index_mapping.to_release[history], self._index_mapping.to_release[items]
        return self._covisitation.score_pairs(history, items)


def hour_of_day(time: float) -> float:
    """Return the hour of the day, UTC, of a time in epoch seconds, 0 to 24."""
    return time / 3600 % 24
