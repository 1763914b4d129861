"""The contract of a feature: its columns, and how their values are computed for candidates.

A feature has one or more columns, each of which belongs to a group (serve.recommend.feature_groups). NaN stands for an
unknown value; the scorer learns what that means and never takes it for zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from serve.recommend.feature_groups import FeatureGroup
from serve.recommend.ranking.item_signals import TAG_GROUPS, ItemSignals
from serve.recommend.retrieval.candidates import Candidates
from serve.recommend.retrieval.retriever import TOWER, Scores
from serve.recommend.retrieval.retriever_registry import is_count
from serve.recommend.retrieval.user_history import UserHistory

HISTORY = 20  # interactions that each candidate is compared with


class FeatureColumn(NamedTuple):
    """A column of the feature matrix."""

    name: str
    group: FeatureGroup


@dataclass(frozen=True)
class ShopSchema:
    """What columns depend on: the content spaces of a shop, and whether it has item relations (`related`)."""

    spaces: tuple[str, ...]
    related: bool = False

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """What a candidate and an interaction are compared by, [p]."""
        return (TOWER, *self.spaces, "covisitation", *TAG_GROUPS)


@dataclass(frozen=True)
class FeatureContext:
    """The circumstances of a list.

    Attributes:
        now: The time of the request, epoch seconds.
        hour: The hour of the day, 0 to 24; None for unknown.
        position: The position [m] at which each candidate was shown, from 0; NaN for none, None in a request.
    """

    now: float
    hour: float | None = None
    position: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class FeatureInputs:
    """What features are computed from, for m candidates and the last h interactions of a user.

    Attributes:
        user: The whole history.
        recent: Its last HISTORY interactions, [h].
        candidates: All candidates of the request.
        rows: The rows [m] of the candidates that features are computed for.
        items: The signals of these candidates, [m].
        recent_items: The signals of the items of the recent interactions, [h].
        pairs: What candidates and interactions have in common by channel, [m, h, p].
        context: The circumstances.
        schema: What columns depend on.
        smoothing: The smoothing constants of retrievers whose score is a count.
    """

    user: UserHistory
    recent: UserHistory
    candidates: Candidates
    rows: NDArray[np.int64]
    items: ItemSignals
    recent_items: ItemSignals
    pairs: NDArray[np.float32]
    context: FeatureContext
    schema: ShopSchema
    smoothing: Mapping[str, float]


class Feature(Protocol):
    """Computes one or more columns. The same code serves training and requests."""

    def columns(self, schema: ShopSchema) -> Sequence[FeatureColumn]:
        """Return the columns in a shop."""

    def compute(self, inputs: FeatureInputs) -> Mapping[str, Scores | float]:
        """Return the values of columns by name, [m] or one for all candidates; a missing column is NaN."""


def scale_score(retriever: str, scores: Scores, smoothing: Mapping[str, float]) -> Scores:
    """Scale a retriever's scores as the score model does: counts by their logarithm."""
    return np.log1p(scores / np.float32(smoothing.get(retriever, 1.0))) if is_count(retriever) else scores
