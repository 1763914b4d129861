"""The behaviour model of a release: counts, towers, score model and scorer; written with the release, then immutable.

behaviour/
  behaviour.json           what it was made of, see BehaviourMetadata
  covisitation_*.npy       see serve.recommend.retrieval.covisitation
  popularity.npy           [items], see serve.recommend.retrieval.popularity
  first_seen.npy           [items], epoch seconds; NaN if the catalogue has no date
  trend.npy                [items], see serve.recommend.retrieval.popularity
  towers/FINGERPRINT/      see embed.towers.two_tower_model; its vectors are the space `tower`
  facts_*.npy              see serve.recommend.ranking.item_signals; only with towers
  knowledge/               see serve.recommend.retrieval.relation_graph; only in shops with item relations
  scorer/FINGERPRINT/      see serve.recommend.ranking.scorer; if one was trained with these towers
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, Field

from embed.behaviour import InteractionCounts, Interactions
from embed.errors import Damaged
from embed.towers.two_tower_model import TrainedTowers
from index.protocol import VectorIndex
from serve.core.settings_sections import HalfLives
from serve.recommend.ranking.item_signals import ItemSignals
from serve.recommend.ranking.scorer import Scorer
from serve.recommend.retrieval.arrivals import score_arrivals
from serve.recommend.retrieval.covisitation import Covisitation
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.recommend.retrieval.popularity import TREND_FACTOR, compute_trend, count_popularity
from serve.recommend.retrieval.relation_graph import RelationGraph
from serve.recommend.retrieval.retriever import ItemIndexMapping, Items, RetrievalContext, Retriever, Scores
from serve.recommend.retrieval.retriever_registry import build_retrievers
from serve.recommend.retrieval.retriever_results import order_by_score


class BehaviourMetadata(BaseModel):
    """What behaviour a release was made of, and the fingerprints of its towers, scorer and relations, if any."""

    counted_at: float
    events: int
    users: int = Field(validation_alias=AliasChoices("users", "shoppers"))  # the second, by 0.1
    interactions: int
    pending: int = Field(validation_alias=AliasChoices("pending", "parked"))
    towers: str | None
    scorer: str | None
    knowledge: str | None
    half_lives: HalfLives
    score_model: LinearScoreModel = Field(validation_alias=AliasChoices("score_model", "blend"))


@dataclass
class BehaviourModel:
    """The counts of n items, the towers, the scorer, and the score model that combines the retrievers."""

    metadata: BehaviourMetadata
    covisitation: Covisitation
    popularity: Scores
    trend: Scores
    first_seen: NDArray[np.float64]
    towers: TrainedTowers | None = None
    items: ItemSignals | None = None
    scorer: Scorer | None = None
    knowledge: RelationGraph | None = None

    @classmethod
    def count(
        cls,
        interactions: Interactions,
        collected: InteractionCounts,
        first_seen: NDArray[np.float64],
        towers: TrainedTowers | None,
        score_model: LinearScoreModel,
        half_lives: HalfLives,
        now: float,
        scorer: Scorer | None = None,
    ) -> "BehaviourModel":
        """Count interactions by their worth at `now`.

        Args:
            interactions: The interactions of all users.
            collected: What was read to collect them.
            first_seen: When each item came into the catalogue, [items], epoch seconds; NaN for unknown.
            towers: The trained towers.
            score_model: The score model that was learned with them, or the default one.
            half_lives: After how many days counts halve.
            now: Epoch seconds.
            scorer: The scorer that was trained with the towers.
        """
        metadata = BehaviourMetadata(
            counted_at=now,
            events=collected.events,
            users=len(interactions.users),
            interactions=len(interactions),
            pending=collected.pending,
            towers=towers.fingerprint if towers else None,
            scorer=scorer.fingerprint if scorer else None,
            knowledge=None,
            half_lives=half_lives,
            score_model=score_model,
        )
        covisitation = Covisitation.count(interactions, now, half_lives.covisitation)
        popularity = count_popularity(interactions, now, half_lives.popularity)
        recent = count_popularity(interactions, now, half_lives.popularity / TREND_FACTOR)
        trend = compute_trend(popularity, recent)
        return cls(metadata, covisitation, popularity, trend, first_seen, towers, scorer=scorer)

    def with_knowledge(self, knowledge: RelationGraph | None) -> "BehaviourModel":
        """Return the same model with the relations of items."""
        metadata = self.metadata.model_copy(update={"knowledge": knowledge.fingerprint if knowledge else None})
        return replace(self, metadata=metadata, knowledge=knowledge)

    @cached_property
    def popularity_ranking(self) -> tuple[Scores, Items]:
        """The popularity [items] of all items, and the items that have any, best first."""
        return self.popularity, order_by_score(self.popularity)

    @cached_property
    def _present_arrivals(self) -> tuple[Scores, Items]:
        return self.arrival_ranking(time.time())

    def arrival_ranking(self, now: float | None) -> tuple[Scores, Items]:
        """Return the novelty [items] of all items at a time, and the items that have any, best first.

        `now` is in epoch seconds. None stands for the time of the first call, whose result is cached.
        """
        if now is None:
            return self._present_arrivals
        scores = score_arrivals(self.first_seen, now, self.metadata.half_lives.arrivals)
        return scores, order_by_score(scores)

    def retrievers(
        self,
        spaces: Mapping[str, VectorIndex],
        samples: Mapping[str, NDArray[np.float32]],
        weights: Mapping[str, float],
        index_mapping: ItemIndexMapping | None = None,
        now: float | None = None,
    ) -> dict[str, Retriever]:
        """Build the retrievers that the release has data for.

        Args:
            spaces: The vector indexes of a snapshot.
            samples: A sample of vectors of each space, for fusion.
            weights: The weights of spaces, for fusion.
            index_mapping: How the item indices of the snapshot differ from those of the release; None for equal ones.
            now: The time (epoch seconds) at which the age of items is taken; None for the clock.
        """
        return build_retrievers(RetrievalContext(self, spaces, samples, weights, index_mapping, now))

    def warm_up(self) -> None:
        """Compute what is cached and use the models once, so that the first request does not wait for it."""
        _ = self.popularity_ranking, self._present_arrivals
        if self.towers is not None:
            self.towers.user_vector(np.zeros((1, self.towers.width), np.float32), np.zeros(1, np.int64), np.zeros(1))
        if self.scorer is not None:
            self.scorer.warm_up()

    def write(self, folder: Path) -> None:
        """Write the model into a new folder."""
        folder.mkdir()
        self.covisitation.write(folder)
        np.save(folder / "popularity.npy", self.popularity, allow_pickle=False)
        np.save(folder / "trend.npy", self.trend, allow_pickle=False)
        np.save(folder / "first_seen.npy", self.first_seen, allow_pickle=False)
        (folder / "behaviour.json").write_text(self.metadata.model_dump_json(indent=2))
        if self.towers is not None:
            self.towers.save(folder / "towers")
        if self.items is not None:
            self.items.write(folder)
        if self.scorer is not None:
            self.scorer.save(folder / "scorer")
        if self.knowledge is not None:
            self.knowledge.write(folder / "knowledge")

    @classmethod
    def open(cls, folder: Path) -> "BehaviourModel":
        """Open what `write` wrote, after the release checked its files; raises Damaged if they are invalid."""
        try:
            return cls._opened(folder)
        except (ValueError, EOFError) as error:  # also pydantic's ValidationError
            raise Damaged(f"{folder} holds an invalid behaviour model ({error}): build again", "behaviour") from error

    @classmethod
    def _opened(cls, folder: Path) -> "BehaviourModel":
        metadata = BehaviourMetadata.model_validate_json((folder / "behaviour.json").read_bytes())
        return cls(
            metadata,
            Covisitation.open(folder),
            np.load(folder / "popularity.npy", allow_pickle=False),
            np.load(folder / "trend.npy", allow_pickle=False),
            np.load(folder / "first_seen.npy", allow_pickle=False),
            TrainedTowers.open(folder / "towers" / metadata.towers) if metadata.towers else None,
            ItemSignals.open(folder) if metadata.towers else None,
            Scorer.open(folder / "scorer" / metadata.scorer) if metadata.scorer else None,
            RelationGraph.open(folder / "knowledge"),
        )
