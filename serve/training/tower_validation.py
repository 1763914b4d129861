"""Fits towers and score model to the events of users, by the rules of embed.behaviour.splits.

First, towers learn from the time before validation. Validation selects the number of epochs, and then the weight of
each retriever beside these towers. Last, new towers learn from all events for the same number of epochs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Holdout, InteractionCounts, Interactions, Split
from embed.towers.tower_features import ItemFeatures, Vocabulary
from embed.towers.tower_network import EmbeddingSizes
from embed.towers.tower_settings import TowerSettings
from embed.towers.tower_training import TowerTrainer, fit
from embed.towers.two_tower_model import TrainedTowers
from embed.training_loop import TrainingState
from index.exact_index import ExactIndex
from index.protocol import VectorIndex
from index.space import Space
from serve.core.progress import Progress
from serve.core.settings_sections import HalfLives
from serve.recommend.ranking.feature_builder import FeatureBuilder
from serve.recommend.ranking.item_signals import ItemSignals
from serve.recommend.retrieval.candidates import DEPTH, CandidateGenerator
from serve.recommend.retrieval.linear_score_model import LinearScoreModel, ScoreModelExample
from serve.recommend.retrieval.linear_score_model import fit as fit_score_model
from serve.recommend.retrieval.relation_graph import RelationGraph
from serve.recommend.retrieval.retriever import TOWER, Retriever
from serve.recommend.retrieval.retriever_registry import RETRIEVERS, is_count
from serve.recommend.retrieval.user_history import UserHistory
from serve.release.behaviour_model import BehaviourModel

MIN_SCORE_MODEL_USERS = 3000
HIDDEN_SHARE = 0.1  # share of items whose events are hidden when the score model is learned


@dataclass(frozen=True)
class TrainingData:
    """What training uses besides interactions: n items, their features and their content spaces.

    `samples` and `weights` by space are what fusion needs. `first_seen` [n] is when each item came into the catalogue.
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
        """Whether items without events have any features."""
        return bool(self.vocabulary.spaces or self.vocabulary.tags)

    def trainer(self, settings: TowerSettings, interactions: Interactions) -> TowerTrainer:
        """Return a trainer of new towers."""
        sizes = EmbeddingSizes(
            len(self.vocabulary.item_ids),
            len(self.vocabulary.tags),
            {space: dim for space, (dim, _) in self.vocabulary.spaces.items()},
            self.vocabulary.price_spread > 0,
        )
        return TowerTrainer(settings, sizes, self.features, interactions, self.device)

    def point_in_time(
        self,
        interactions: Interactions,
        now: float,
        towers: TrainedTowers,
        score_model: LinearScoreModel,
        hidden_items: NDArray[np.bool_] | None = None,
    ) -> "PointInTimeFeatures":
        """Return retrievers and features as they would have been at `now`.

        Args:
            interactions: The interactions before `now`.
            now: Epoch seconds.
            towers: Towers that learned from the interactions before `now` only.
            score_model: The score model, or the default one.
            hidden_items: For which items the towers use the content only, [items].
        """
        collected = InteractionCounts(len(interactions), len(interactions), 0, 0, 0, 0, 0)
        behaviour = BehaviourModel.count(
            interactions, collected, self.first_seen, towers, score_model, self.half_lives, now
        )
        behaviour = behaviour.with_knowledge(self.knowledge)
        features = self.features
        if hidden_items is not None:
            features = replace(features, identity=np.where(hidden_items, 0, features.identity))
        vectors = towers.item_vectors(features)
        owners = np.arange(len(vectors), dtype=np.int32)
        space = Space(TOWER, vectors.shape[1], towers.fingerprint)
        spaces = {**self.spaces, TOWER: ExactIndex(space, vectors, owners, owners, len(vectors))}
        signals = ItemSignals.build(self.vocabulary, features, behaviour.trend, self.first_seen)
        return PointInTimeFeatures(
            behaviour.retrievers(spaces, self.samples, self.weights, now=now),
            FeatureBuilder(
                spaces, signals.take, behaviour.covisitation, score_model.smoothing, related=self.knowledge is not None
            ),
        )


@dataclass(frozen=True)
class PointInTimeFeatures:
    """The retrievers and the feature builder of a time in the past, without any later knowledge."""

    retrievers: dict[str, Retriever]
    builder: FeatureBuilder


@dataclass(frozen=True)
class ValidatedTowers:
    """The result of validation: towers of the time before it, the training state, and the score model."""

    towers: TrainedTowers
    state: TrainingState
    score_model: LinearScoreModel


def choose(
    training_data: TrainingData,
    split: Split,
    settings: TowerSettings,
    folder: Path,
    progress: Progress | None = None,
) -> ValidatedTowers:
    """Train on `split.train` until validation stops improving, and learn the score model on the validation time."""
    trainer = training_data.trainer(settings, split.train)
    on_step = (lambda done, total: progress("train towers", done, total, "steps")) if progress else None
    state = fit(trainer, split.validation, folder, progress=on_step)
    towers = trainer.trained(training_data.vocabulary, {})
    hidden_items = np.random.default_rng(settings.seed).random(len(training_data)) < (
        HIDDEN_SHARE if training_data.has_content else 0
    )
    retrievers = training_data.point_in_time(
        split.train, split.validation_from, towers, LinearScoreModel(), hidden_items
    ).retrievers
    score_model = learn_score_model(retrievers, split.validation, hidden_items, settings.seed, progress)
    return ValidatedTowers(towers, state, score_model)


def learn_score_model(
    retrievers: Mapping[str, Retriever],
    holdout: Holdout,
    hidden_items: NDArray[np.bool_],
    seed: int,
    progress: Progress | None = None,
) -> LinearScoreModel:
    """Learn the score model under which the items that held-out users liked are likeliest among their candidates.

    Items in `hidden_items` [items] are treated as items without events.
    """
    generator = CandidateGenerator(retrievers, LinearScoreModel(), holdout.history.items)
    held = holdout.sample(MIN_SCORE_MODEL_USERS, seed)
    examples = []
    for row in range(len(held)):
        user = UserHistory.from_interactions(held.history, row)
        candidates = generator.generate(user, DEPTH, np.unique(user.item))
        targets = held.targets[held.starts[row] : held.starts[row + 1]]
        hidden = hidden_items[candidates.items]
        by_others = [proposed for retriever, proposed in candidates.proposed.items() if not is_count(retriever)]
        usable = ~hidden | np.logical_or.reduce([*by_others, np.zeros(len(hidden), np.bool_)])
        scores = {
            retriever: np.where(hidden, 0, values)[usable] if is_count(retriever) else values[usable]
            for retriever, values in candidates.scores.items()
        }
        examples.append(ScoreModelExample(scores, np.isin(candidates.items, targets)[usable]))
        if progress:
            progress("fit score model", row + 1, len(held), "users")
    return fit_score_model(examples, [retriever for retriever in RETRIEVERS if retriever in retrievers])


def finish(
    training_data: TrainingData,
    interactions: Interactions,
    settings: TowerSettings,
    epochs: int,
    folder: Path,
    facts: dict[str, Any],
    progress: Progress | None = None,
) -> TrainedTowers:
    """Train new towers on all interactions, for the number of epochs that validation selected."""
    trainer = training_data.trainer(settings, interactions)
    on_step = (lambda done, total: progress("train final towers", done, total, "steps")) if progress else None
    fit(trainer, None, folder, epochs, on_step)
    return trainer.trained(training_data.vocabulary, facts)
