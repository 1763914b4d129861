"""Fitting: towers and blend from what shoppers did, by the rules of embed.behaviour.splits.

First towers learn from the time before validation; validation tells how many epochs are best, and then the blend how
much each source is worth beside them. Last, new towers learn from everything for as many epochs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Collected, Holdout, Interactions, Split
from embed.towers.features import ItemFeatures, Vocabulary
from embed.towers.model import Sizes
from embed.towers.settings import TowerSettings
from embed.towers.training import Trainer, fit
from embed.towers.two_tower_model import TrainedTowers
from embed.training_loop import State
from index.exact import ExactIndex
from index.protocol import VectorIndex
from index.space import Space
from serve.core.settings import RETRIEVERS, HalfLives
from serve.recommend.ranking.feature_builder import FeatureBuilder
from serve.recommend.ranking.item_features import ItemSignals
from serve.recommend.retrieval.candidates import DEPTH, CandidateGenerator
from serve.recommend.retrieval.relation_graph import RelationGraph
from serve.recommend.retrieval.retrievers import TOWER, Retriever
from serve.recommend.retrieval.score_blend import COUNTS, BlendExample, LinearScoreModel
from serve.recommend.retrieval.score_blend import fit as fit_score_model
from serve.recommend.retrieval.user_history import UserHistory
from serve.release.behaviour_model import Behaviour

MIN_SCORE_MODEL_USERS = 3000
STRANGE = 0.1  # share of items that the blend is learned with as if nobody had had them
Progress = Callable[[str, float, float, str], None]
"""stage, done, total, unit"""


@dataclass(frozen=True)
class TrainingData:
    """What there is to learn from besides interactions: n items, their features and their content spaces.

    `samples` and `weights` by space are what fusion needs, `first_seen` [n] when each item came.
    """

    vocabulary: Vocabulary
    features: ItemFeatures
    spaces: Mapping[str, VectorIndex]
    samples: Mapping[str, NDArray[np.float32]]
    weights: Mapping[str, float]
    first_seen: NDArray[np.float64]
    half_lives: HalfLives
    device: str = "cpu"
    knowledge: RelationGraph | None = None

    def __len__(self) -> int:
        return len(self.features)

    @property
    def has_content(self) -> bool:
        """Whether anything is known of an item that nobody had yet."""
        return bool(self.vocabulary.spaces or self.vocabulary.tags)

    def trainer(self, settings: TowerSettings, interactions: Interactions) -> Trainer:
        """A trainer of new towers."""
        sizes = Sizes(
            len(self.vocabulary.item_ids),
            len(self.vocabulary.tags),
            {space: dim for space, (dim, _) in self.vocabulary.spaces.items()},
            self.vocabulary.price_spread > 0,
        )
        return Trainer(settings, sizes, self.features, interactions, self.device)

    def past(
        self,
        interactions: Interactions,
        now: float,
        towers: TrainedTowers,
        score_model: LinearScoreModel,
        strange: NDArray[np.bool_] | None = None,
    ) -> "PointInTimeFeatures":
        """Sources and features as they would have been at `now`, made of the interactions before it.

        The towers go by the content alone of items that are `strange` [items].
        """
        collected = Collected(len(interactions), len(interactions), 0, 0, 0, 0, 0)
        behaviour = Behaviour.of(interactions, collected, self.first_seen, towers, score_model, self.half_lives, now)
        behaviour = behaviour.knowing(self.knowledge)
        features = self.features
        if strange is not None:
            features = replace(features, identity=np.where(strange, 0, features.identity))
        vectors = towers.item_vectors(features)
        owners = np.arange(len(vectors), dtype=np.int32)
        space = Space(TOWER, vectors.shape[1], towers.fingerprint)
        spaces = {**self.spaces, TOWER: ExactIndex(space, vectors, owners, owners, len(vectors))}
        facts = ItemSignals.made(self.vocabulary, features, behaviour.trend, self.first_seen)
        return PointInTimeFeatures(
            behaviour.retrievers(spaces, self.samples, self.weights, now=now),
            FeatureBuilder(
                spaces, facts.of, behaviour.covisitation, score_model.smoothing, related=self.knowledge is not None
            ),
        )


@dataclass(frozen=True)
class PointInTimeFeatures:
    """What the sources would have said at a moment, and what features would have been made of it."""

    retrievers: dict[str, Retriever]
    maker: FeatureBuilder


@dataclass(frozen=True)
class ValidatedTowers:
    """What validation chose: towers that know the time before it, epochs, and the blend."""

    towers: TrainedTowers
    state: State
    score_model: LinearScoreModel


def choose(
    training_data: TrainingData,
    split: Split,
    settings: TowerSettings,
    folder: Path,
    progress: Progress | None = None,
) -> ValidatedTowers:
    """Train on `split.train` until validation gets no better, and learn the blend there."""
    trainer = training_data.trainer(settings, split.train)
    tell = (lambda done, total: progress("train", done, total, "steps")) if progress else None
    state = fit(trainer, split.validation, folder, progress=tell)
    towers = trainer.trained(training_data.vocabulary, {})
    strange = np.random.default_rng(settings.seed).random(len(training_data)) < (
        STRANGE if training_data.has_content else 0
    )
    retrievers = training_data.past(split.train, split.validation_from, towers, LinearScoreModel(), strange).retrievers
    score_model = learn_score_model(retrievers, split.validation, strange, settings.seed, progress)
    return ValidatedTowers(towers, state, score_model)


def learn_score_model(
    retrievers: Mapping[str, Retriever],
    holdout: Holdout,
    strange: NDArray[np.bool_],
    seed: int,
    progress: Progress | None = None,
) -> LinearScoreModel:
    """The blend under which what the held-out shoppers liked is likeliest among what the sources propose.

    Items that are `strange` [items] are taken for items that nobody had yet.
    """
    recommender = CandidateGenerator(retrievers, LinearScoreModel(), holdout.history.items)
    held = holdout.some(MIN_SCORE_MODEL_USERS, seed)
    cases = []
    for row in range(len(held)):
        user = UserHistory.of(held.history, row)
        found = recommender.candidates(user, DEPTH, np.unique(user.item))
        targets = held.targets[held.starts[row] : held.starts[row + 1]]
        unknown = strange[found.items]
        by_others = [which for retriever, which in found.proposed.items() if retriever not in COUNTS]
        kept = ~unknown | np.logical_or.reduce([*by_others, np.zeros(len(unknown), np.bool_)])
        scores = {
            retriever: np.where(unknown, 0, of)[kept] if retriever in COUNTS else of[kept]
            for retriever, of in found.scores.items()
        }
        cases.append(BlendExample(scores, np.isin(found.items, targets)[kept]))
        if progress:
            progress("learn the blend", row + 1, len(held), "shoppers")
    return fit_score_model(cases, [retriever for retriever in RETRIEVERS if retriever in retrievers])


def finish(
    training_data: TrainingData,
    interactions: Interactions,
    settings: TowerSettings,
    epochs: int,
    folder: Path,
    facts: dict[str, Any],
    progress: Progress | None = None,
) -> TrainedTowers:
    """New towers from all interactions, trained for the number of epochs that validation chose."""
    trainer = training_data.trainer(settings, interactions)
    tell = (lambda done, total: progress("train on all", done, total, "steps")) if progress else None
    fit(trainer, None, folder, epochs, tell)
    return trainer.trained(training_data.vocabulary, facts)
