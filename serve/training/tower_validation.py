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
from serve.core.settings import SOURCES, HalfLives
from serve.recommend.ranking.feature_builder import FeatureMaker
from serve.recommend.ranking.item_features import Facts
from serve.recommend.retrieval.candidates import DEPTH, Recommender
from serve.recommend.retrieval.relation_graph import Knowledge
from serve.recommend.retrieval.retrievers import TOWER, Source
from serve.recommend.retrieval.score_blend import COUNTS, Blend, Case
from serve.recommend.retrieval.score_blend import fit as fit_blend
from serve.recommend.retrieval.user_history import Shopper
from serve.release.behaviour_model import Behaviour

BLEND_SHOPPERS = 3000
STRANGE = 0.1  # share of items that the blend is learned with as if nobody had had them
Progress = Callable[[str, float, float, str], None]
"""stage, done, total, unit"""


@dataclass(frozen=True)
class Material:
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
    knowledge: Knowledge | None = None

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
        blend: Blend,
        strange: NDArray[np.bool_] | None = None,
    ) -> "Past":
        """Sources and features as they would have been at `now`, made of the interactions before it.

        The towers go by the content alone of items that are `strange` [items].
        """
        collected = Collected(len(interactions), len(interactions), 0, 0, 0, 0, 0)
        behaviour = Behaviour.of(interactions, collected, self.first_seen, towers, blend, self.half_lives, now)
        behaviour = behaviour.knowing(self.knowledge)
        features = self.features
        if strange is not None:
            features = replace(features, identity=np.where(strange, 0, features.identity))
        vectors = towers.item_vectors(features)
        owners = np.arange(len(vectors), dtype=np.int32)
        space = Space(TOWER, vectors.shape[1], towers.fingerprint)
        spaces = {**self.spaces, TOWER: ExactIndex(space, vectors, owners, owners, len(vectors))}
        facts = Facts.made(self.vocabulary, features, behaviour.trend, self.first_seen)
        return Past(
            behaviour.sources(spaces, self.samples, self.weights, now=now),
            FeatureMaker(spaces, facts.of, behaviour.covisitation, blend.floors, related=self.knowledge is not None),
        )


@dataclass(frozen=True)
class Past:
    """What the sources would have said at a moment, and what features would have been made of it."""

    sources: dict[str, Source]
    maker: FeatureMaker


@dataclass(frozen=True)
class Chosen:
    """What validation chose: towers that know the time before it, epochs, and the blend."""

    towers: TrainedTowers
    state: State
    blend: Blend


def choose(
    material: Material,
    split: Split,
    settings: TowerSettings,
    folder: Path,
    progress: Progress | None = None,
) -> Chosen:
    """Train on `split.train` until validation gets no better, and learn the blend there."""
    trainer = material.trainer(settings, split.train)
    tell = (lambda done, total: progress("train", done, total, "steps")) if progress else None
    state = fit(trainer, split.validation, folder, progress=tell)
    towers = trainer.trained(material.vocabulary, {})
    strange = np.random.default_rng(settings.seed).random(len(material)) < (STRANGE if material.has_content else 0)
    sources = material.past(split.train, split.validation_from, towers, Blend(), strange).sources
    blend = learn_blend(sources, split.validation, strange, settings.seed, progress)
    return Chosen(towers, state, blend)


def learn_blend(
    sources: Mapping[str, Source],
    holdout: Holdout,
    strange: NDArray[np.bool_],
    seed: int,
    progress: Progress | None = None,
) -> Blend:
    """The blend under which what the held-out shoppers liked is likeliest among what the sources propose.

    Items that are `strange` [items] are taken for items that nobody had yet.
    """
    recommender = Recommender(sources, Blend(), holdout.history.items)
    held = holdout.some(BLEND_SHOPPERS, seed)
    cases = []
    for user in range(len(held)):
        shopper = Shopper.of(held.history, user)
        found = recommender.candidates(shopper, DEPTH, np.unique(shopper.item))
        targets = held.targets[held.starts[user] : held.starts[user + 1]]
        unknown = strange[found.items]
        by_others = [which for source, which in found.proposed.items() if source not in COUNTS]
        kept = ~unknown | np.logical_or.reduce([*by_others, np.zeros(len(unknown), np.bool_)])
        scores = {
            source: np.where(unknown, 0, of)[kept] if source in COUNTS else of[kept]
            for source, of in found.scores.items()
        }
        cases.append(Case(scores, np.isin(found.items, targets)[kept]))
        if progress:
            progress("learn the blend", user + 1, len(held), "shoppers")
    return fit_blend(cases, [source for source in SOURCES if source in sources])


def finish(
    material: Material,
    interactions: Interactions,
    settings: TowerSettings,
    epochs: int,
    folder: Path,
    facts: dict[str, Any],
    progress: Progress | None = None,
) -> TrainedTowers:
    """New towers from all interactions, trained for the number of epochs that validation chose."""
    trainer = material.trainer(settings, interactions)
    tell = (lambda done, total: progress("train on all", done, total, "steps")) if progress else None
    fit(trainer, None, folder, epochs, tell)
    return trainer.trained(material.vocabulary, facts)
