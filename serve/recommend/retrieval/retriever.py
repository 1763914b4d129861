"""The contract of a retriever: what it gets, what it returns, and how it declares itself.

A retriever proposes candidates for a user and scores any item in a unit of its own. Each one lives in its own module,
which ends with a `RetrieverSpec`; `retriever_registry` lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from index.item_mask import ItemMask
from index.protocol import VectorIndex
from serve.recommend.feature_groups import FeatureGroup
from serve.recommend.retrieval.user_history import UserHistory

if TYPE_CHECKING:  # these modules import this one
    from embed.towers.two_tower_model import TrainedTowers
    from serve.recommend.retrieval.covisitation import Covisitation
    from serve.recommend.retrieval.relation_graph import RelationGraph

TOWER = "tower"
"""The name of the tower retriever, and of the space of the towers' vectors."""
Items = NDArray[np.int64]
Scores = NDArray[np.float32]
RECENT = 10  # interactions of a history that neighbours are looked for
FADE = 0.8  # weight of an interaction relative to the next later one


class RetrieverResult(Protocol):
    """What a retriever returns for one user."""

    def scores(self, items: Items) -> Scores:
        """Return the scores [m] of m distinct items, which are in rising order."""

    def best(self, depth: int, allowed: ItemMask | None) -> Items:
        """Return about `depth` of the best allowed items, or fewer."""


class Retriever(Protocol):
    """Proposes and scores candidates for a user."""

    def retrieve(self, user: UserHistory) -> RetrieverResult | None:
        """Return the result for a user, or None if the history gives the retriever nothing to work with."""


@dataclass(frozen=True)
class ItemIndexMapping:
    """Translates item indices between a snapshot and its release, where live changes gave items new indices.

    `to_release` [items of the snapshot] and `to_snapshot` [items of the release] are -1 for an item that the other
    side does not have.
    """

    to_release: Items
    to_snapshot: Items


class BehaviourData(Protocol):
    """The behaviour data of a release, as retrievers use it; item indices are those of the release."""

    @property
    def covisitation(self) -> "Covisitation":
        """Return the co-visitation counts."""

    @property
    def towers(self) -> "TrainedTowers | None":
        """Return the towers, if the release has any."""

    @property
    def knowledge(self) -> "RelationGraph | None":
        """Return the graph of item relations, if the shop has any."""

    @property
    def popularity_ranking(self) -> tuple[Scores, Items]:
        """Return the popularity [items] of all items, and the items that have any, best first."""

    def arrival_ranking(self, now: float | None) -> tuple[Scores, Items]:
        """Return the novelty [items] of all items at a time (epoch seconds), and the items that have any, best first.

        None stands for the present.
        """


@dataclass(frozen=True)
class RetrievalContext:
    """What retrievers are built from: the behaviour data of a release and the vector indexes of a snapshot.

    `samples` and `space_weights` by space are what fusion needs. `index_mapping` is None if the snapshot has the item
    indices of its release. `now` (epoch seconds) is the time at which the age of items is taken, None for the clock.
    """

    behaviour: BehaviourData
    spaces: Mapping[str, VectorIndex]
    samples: Mapping[str, NDArray[np.float32]]
    space_weights: Mapping[str, float]
    index_mapping: ItemIndexMapping | None = None
    now: float | None = None


@dataclass(frozen=True)
class RetrieverSpec:
    """Everything that the rest of the system needs to know about a retriever.

    Attributes:
        name: Its name in settings, responses, metrics and feature columns.
        build: Builds the retriever; returns None if the release has no data for it.
        group: The group of its feature columns.
        wording: What follows "Because" in a reason, if the score model ranks without a scorer.
        depth_share: How many candidates it proposes, as a share of the requested depth.
        weight: Its weight in the linear score model before any training.
        smoothing: For a score that is a count, the smoothing constant before any training; None for other scores.
        needs_relations: Whether it has feature columns only in shops with item relations.
    """

    name: str
    build: Callable[[RetrievalContext], Retriever | None]
    group: FeatureGroup
    wording: str
    depth_share: float = 1.0
    weight: float = 1.0
    smoothing: float | None = None
    needs_relations: bool = False
