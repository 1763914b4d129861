"""Collects what the store's events say of the catalogue's items, for a release."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from embed.behaviour import Interactions, collect_interactions
from embed.catalogue import Catalogue
from embed.encode_job import SpaceVectors
from embed.towers.two_tower_model import TrainedTowers
from serve.core.settings import Settings
from serve.recommend.ranking.merchandising_rules import rules_file
from serve.recommend.ranking.scorer import Scorer
from serve.recommend.retrieval.item_relations import FILE as RELATIONS
from serve.recommend.retrieval.item_relations import read_relations
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.recommend.retrieval.relation_graph import RelationGraph
from serve.release.behaviour_model import BehaviourModel
from serve.storage.event_log import open_event_log
from serve.storage.event_statistics import EventStatistics
from serve.training.scorer_job import current_scorer
from serve.training.towers_job import current_towers

MAX_QUERIES = 50_000  # suggested searches


def collect_behaviour(
    settings: Settings, catalogue: Catalogue, spaces: Sequence[SpaceVectors]
) -> tuple[BehaviourModel, Interactions]:
    """Collect the events of the catalogue's items, with the towers and the scorer that fit its spaces; also return the
    interactions.
    """
    store = open_event_log(settings)
    try:
        interactions, collected = collect_interactions(
            (batch for _, batch in store.batches()), catalogue.ids(), settings.signal
        )
    finally:
        store.close()
    fitting = fitting_models(settings.store, {space.space: space.fingerprint for space in spaces})
    towers, scorer = fitting.towers, fitting.scorer
    score_model = LinearScoreModel.model_validate(towers.facts["blend"]) if towers is not None else LinearScoreModel()
    first_seen = catalogue.table["updated_at"].to_numpy()
    # Counts decay up to the last event, not up to today: a log without new events does not lose its counts.
    now = min(time.time(), float(interactions.time.max(initial=0.0)))
    relations = read_relations(rules_file(settings).parent / RELATIONS)
    categories = catalogue.column("category").to_pylist() if relations.related else []
    behaviour = BehaviourModel.count(
        interactions, collected, first_seen, towers, score_model, settings.half_lives, now, scorer
    )
    if relations.related:
        visited = behaviour.covisitation.matrix
        behaviour = behaviour.with_knowledge(
            RelationGraph.build(relations, catalogue.ids().to_pylist(), categories, visited)
        )
    return behaviour, interactions


class FittingModels(NamedTuple):
    """The towers and the scorer of a store that fit some spaces, and why others are left out."""

    towers: TrainedTowers | None
    scorer: Scorer | None
    notes: list[str]


def fitting_models(store: Path, fingerprints: Mapping[str, str]) -> FittingModels:
    """Return the towers and the scorer that were trained on the vectors of these encoders, by space."""
    towers, scorer = current_towers(store), current_scorer(store)
    notes = []
    if towers is not None and any(
        fingerprints.get(name) != fingerprint for name, (_, fingerprint) in towers.vocabulary.spaces.items()
    ):
        towers = None
        notes.append(
            "the towers were trained on the vectors of other encoders and are left out, and the scorer with them: "
            "recommendations use the linear score model until you run vetrina train towers, vetrina train scorer and "
            "vetrina build"
        )
    if scorer is not None and (
        towers is None
        or (scorer.metadata.towers, scorer.metadata.spaces) != (towers.fingerprint, tuple(sorted(fingerprints)))
    ):
        scorer = None
        if not notes:
            notes.append(
                "the scorer was trained with other towers or spaces and is left out: the linear score model ranks "
                "until you run vetrina train scorer and vetrina build"
            )
    return FittingModels(towers, scorer, notes)


def popular_searches(settings: Settings) -> list[tuple[str, int]]:
    """Return the most frequent searches, each with the number of users who made it."""
    store = open_event_log(settings)
    try:
        return EventStatistics(store.database).popular_queries(MAX_QUERIES)
    finally:
        store.close()
