"""What a release knows of behaviour: counts, the towers, and the blend; written with it and never changed.

behaviour/
  behaviour.json           what it was made of: see Facts
  covisitation_*.npy       see serve.recommend.retrieval.covisitation
  popularity.npy           [items], see serve.recommend.retrieval.retrievers
  first_seen.npy           [items], epoch seconds, NaN where the catalogue does not say
  trend.npy                [items], see serve.recommend.retrieval.retrievers
  towers/FINGERPRINT/      see embed.towers.two_tower_model; its vectors are the space `tower`
  facts_*.npy              see serve.recommend.ranking.item_features; with towers only
  scorer/FINGERPRINT/      see serve.recommend.ranking.scorer; where one was trained with these towers
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, Field

from embed.behaviour import Collected, Interactions
from embed.errors import Damaged
from embed.towers.two_tower_model import TrainedTowers
from index.protocol import VectorIndex
from serve.core.settings import HalfLives
from serve.recommend.ranking.item_features import ItemSignals
from serve.recommend.ranking.scorer import Scorer
from serve.recommend.retrieval.covisitation import Covisitation
from serve.recommend.retrieval.relation_graph import RelationGraph, RelationRetriever
from serve.recommend.retrieval.retrievers import (
    LATELY,
    TOWER,
    ContentRetriever,
    CovisitationRetriever,
    FixedRetriever,
    ItemRenumbering,
    Items,
    Retriever,
    Scores,
    TowerRetriever,
    arrivals,
    popularity,
    ranked,
    trend,
)
from serve.recommend.retrieval.score_blend import LinearScoreModel
from serve.recommend.retrieval.user_history import UserHistory


class BehaviourSummary(BaseModel):
    """What behaviour a release was made of, and by which towers, if any."""

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
class Behaviour:
    """The counts of n items, the towers, and how to blend what they say."""

    facts: BehaviourSummary
    covisitation: Covisitation
    popularity: Scores
    trend: Scores
    first_seen: NDArray[np.float64]
    towers: TrainedTowers | None = None
    items: ItemSignals | None = None
    scorer: Scorer | None = None
    knowledge: RelationGraph | None = None

    @classmethod
    def of(
        cls,
        interactions: Interactions,
        collected: Collected,
        first_seen: NDArray[np.float64],
        towers: TrainedTowers | None,
        score_model: LinearScoreModel,
        half_lives: HalfLives,
        now: float,
        scorer: Scorer | None = None,
    ) -> "Behaviour":
        """Count interactions as they are worth at `now` (epoch seconds)."""
        facts = BehaviourSummary(
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
        counted = Covisitation.count(interactions, now, half_lives.covisitation)
        popular = popularity(interactions, now, half_lives.popularity)
        of_late = popularity(interactions, now, half_lives.popularity / LATELY)
        late = trend(popular, of_late)
        return cls(facts, counted, popular, late, first_seen, towers, scorer=scorer)

    def knowing(self, knowledge: RelationGraph | None) -> "Behaviour":
        """The same, with what the shop says of its items."""
        facts = self.facts.model_copy(update={"knowledge": knowledge.fingerprint if knowledge else None})
        return replace(self, facts=facts, knowledge=knowledge)

    @cached_property
    def _popular(self) -> Items:
        return ranked(self.popularity)

    @cached_property
    def _arrived(self) -> tuple[Scores, Items]:
        return self._arrivals(time.time())

    def _arrivals(self, now: float) -> tuple[Scores, Items]:
        scores = arrivals(self.first_seen, now, self.facts.half_lives.arrivals)
        return scores, ranked(scores)

    def retrievers(
        self,
        spaces: Mapping[str, VectorIndex],
        samples: Mapping[str, NDArray[np.float32]],
        weights: Mapping[str, float],
        numbering: ItemRenumbering | None = None,
        now: float | None = None,
    ) -> dict[str, Retriever]:
        """The sources over the spaces of a view; `numbering` where live changes have given items other numbers.

        `now` is the time by which items are new, if not that of the clock.
        """
        arrived, by_arrival = self._arrived if now is None else self._arrivals(now)
        retrievers: dict[str, Retriever] = {"covisitation": CovisitationRetriever(self.covisitation, numbering)}
        if len(self._popular):
            retrievers["popularity"] = FixedRetriever(self.popularity, self._popular, numbering)
        if len(by_arrival):
            retrievers["arrivals"] = FixedRetriever(arrived, by_arrival, numbering)
        content = {name: index for name, index in spaces.items() if name != TOWER}
        if content:
            retrievers["content"] = ContentRetriever(content, samples, weights)
        if self.knowledge is not None:
            retrievers["knowledge"] = RelationRetriever(self.knowledge, numbering)
        if self.towers is not None and TOWER in spaces:
            retrievers[TOWER] = TowerRetriever(spaces[TOWER], UserVector(self.towers, spaces[TOWER]))
        return retrievers

    def warm_up(self) -> None:
        """Work out what is kept, and use the towers once, so that the first question does not wait for it."""
        _ = self._popular, self._arrived
        if self.towers is not None:
            self.towers.user_vector(np.zeros((1, self.towers.width), np.float32), np.zeros(1, np.int64), np.zeros(1))
        if self.scorer is not None:
            self.scorer.warm_up()

    def write(self, folder: Path) -> None:
        """Write it into a folder, which is made."""
        folder.mkdir()
        self.covisitation.write(folder)
        np.save(folder / "popularity.npy", self.popularity, allow_pickle=False)
        np.save(folder / "trend.npy", self.trend, allow_pickle=False)
        np.save(folder / "first_seen.npy", self.first_seen, allow_pickle=False)
        (folder / "behaviour.json").write_text(self.facts.model_dump_json(indent=2))
        if self.towers is not None:
            self.towers.save(folder / "towers")
        if self.items is not None:
            self.items.write(folder)
        if self.scorer is not None:
            self.scorer.save(folder / "scorer")
        if self.knowledge is not None:
            self.knowledge.write(folder / "knowledge")

    @classmethod
    def open(cls, folder: Path) -> "Behaviour":
        """Open what `write` wrote; its files were checked with the release. Raises Damaged where they do not fit."""
        try:
            return cls._opened(folder)
        except (ValueError, EOFError) as error:  # also pydantic's ValidationError
            raise Damaged(f"{folder} holds what is no behaviour ({error}): build again", "behaviour") from error

    @classmethod
    def _opened(cls, folder: Path) -> "Behaviour":
        facts = BehaviourSummary.model_validate_json((folder / "behaviour.json").read_bytes())
        return cls(
            facts,
            Covisitation.open(folder),
            np.load(folder / "popularity.npy", allow_pickle=False),
            np.load(folder / "trend.npy", allow_pickle=False),
            np.load(folder / "first_seen.npy", allow_pickle=False),
            TrainedTowers.open(folder / "towers" / facts.towers) if facts.towers else None,
            ItemSignals.open(folder) if facts.towers else None,
            Scorer.open(folder / "scorer" / facts.scorer) if facts.scorer else None,
            RelationGraph.open(folder / "knowledge"),
        )


@dataclass(frozen=True)
class UserVector:
    """The user tower over the vectors that an index has of a shopper's items."""

    towers: TrainedTowers
    index: VectorIndex

    def __call__(self, user: UserHistory) -> NDArray[np.float32] | None:
        """The shopper's unit vector [dim], or None where no item of the history is in the space."""
        recent = user.last(self.towers.settings.history)
        vectors = self.index.vectors_of(recent.item)
        there = vectors.any(axis=1)
        if not there.any():
            return None
        return self.towers.user_vector(vectors[there], recent.kind[there], recent.time[there])
