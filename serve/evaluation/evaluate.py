"""`vetrina evaluate`: measures the pipeline on held-out time, beside its parts and plain baselines.

The last tenth of all liked interactions is the test, the tenth before it validation (embed.behaviour.splits). Settings
of towers and linear score model are chosen on validation. Then both are trained on everything before the test, and
recommend once to each test user. Items of the user's history are excluded, all other items are ranked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Holdout, Interactions, Split
from embed.catalogue import Catalogue
from serve.core.progress import Progress
from serve.core.ragged import ragged_offsets
from serve.core.settings import Settings
from serve.evaluation.baselines import BASELINES, rank_baseline
from serve.evaluation.exposure import Exposure, item_groups, measure_exposure
from serve.evaluation.pipeline_fit import FittedPipeline, fit_pipeline
from serve.evaluation.ranking_metrics import DEEP, RankingMetrics, measure_ranking, ndcg_lift
from serve.recommend.ranking.feature_builder import HISTORY_GROUP
from serve.recommend.ranking.impressions import ImpressionTable
from serve.recommend.ranking.pipeline import RankingPipeline
from serve.recommend.ranking.quotas import LongTailQuota
from serve.recommend.ranking.scorer import HeadMetrics
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.recommend.retrieval.popularity import count_popularity
from serve.recommend.retrieval.user_history import UserHistory
from serve.training.tower_validation import TrainingData

FUSED = "fused"
RERANKED = "reranked"
SERVED = "as served"
"""Reranked, or fused without a scorer, with the positions that are reserved for new and for long-tail items."""
HEAVY = 0.9  # quantile of history lengths from which a user is a heavy user
Rankings = NDArray[np.int64]
Rank = Callable[[], Rankings]


@dataclass(frozen=True)
class Evaluation:
    """The metrics of each system, on the whole test and on slices of it.

    Attributes:
        split: the sizes of the split.
        seed: the seed of the run.
        systems: the metrics of each retriever alone, all fused, reranked, as served, and the baselines.
        baselines: which of the systems are baselines.
        slices: the metrics by slice of the test and system; slices without users are missing.
        chosen: the settings that validation chose, by system.
        lifts: NDCG@10 of the reranked system minus that of the fused one, of the best retriever, and of itself with a
            group of features hidden, with 95 % intervals; empty without a scorer.
        baseline_lifts: NDCG@10 of what is served minus that of each baseline, with 95 % intervals.
        heads: the metrics of the scorer's heads on users that it was not trained on.
        exposure: how unevenly items are shown.
    """

    split: Mapping[str, int | float]
    seed: int
    systems: Mapping[str, RankingMetrics]
    baselines: Sequence[str]
    slices: Mapping[str, Mapping[str, RankingMetrics]]
    chosen: Mapping[str, Any]
    lifts: Mapping[str, tuple[float, float, float]]
    baseline_lifts: Mapping[str, tuple[float, float, float]]
    heads: Mapping[str, HeadMetrics]
    exposure: Exposure


def evaluate(
    training_data: TrainingData,
    catalogue: Catalogue,
    split: Split,
    impressions: ImpressionTable,
    settings: Settings,
    folder: Path,
    ablate: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Train on the interactions before the test, and measure on the test.

    Args:
        training_data: the items, their features and retrievers.
        catalogue: the catalogue of these items.
        split: the interactions of training, validation and test.
        impressions: the lists shown in the validation period.
        settings: the settings of the pipeline.
        folder: where checkpoints are written.
        ablate: whether the scorer is also measured with each group of features hidden; takes ten times as long.
        progress: called with the progress of each stage.
    """
    seed = settings.towers.seed
    pipeline = fit_pipeline(training_data, split, impressions, settings, folder, progress)
    ranked = {name: rank() for name, rank in pipeline_systems(pipeline, split, settings, ablate, progress).items()}
    chosen: dict[str, Any] = {
        "epochs": pipeline.chosen.state.best_epoch,
        "score_model": pipeline.chosen.score_model.model_dump(),
    }
    baselines = {name if name not in ranked else f"{name} (all time)": name for name in BASELINES}
    for done, (label, name) in enumerate(baselines.items(), start=1):
        ranked[label], chosen[label], _ = rank_baseline(name, split, DEEP, seed)
        if progress:
            progress("baselines", done, len(baselines), "baselines")

    before = split.before_test
    item_users, users = _count_item_users(before), int((np.diff(before.starts) > 0).sum())

    def measure(rankings: Rankings, holdout: Holdout) -> RankingMetrics:
        return measure_ranking(rankings, holdout, item_users, users, seed)

    ablated = {name: ranked.pop(name) for name in list(ranked) if name.startswith(f"{RERANKED} without")}
    slices = {
        name: {system: measure(rankings[rows], part) for system, rankings in ranked.items()}
        for name, (rows, part) in _slices(split.test, item_users).items()
        if len(part)
    }
    systems = {system: measure(rankings, split.test) for system, rankings in ranked.items()}
    lifts = {}
    if pipeline.scorer is not None:
        best = max(pipeline.retrievers, key=lambda name: systems[name].means["ndcg10"])
        others = {FUSED: ranked[FUSED], f"best retriever: {best}": ranked[best], **ablated}
        lifts = {name: ndcg_lift(ranked[RERANKED], rankings, split.test, seed) for name, rankings in others.items()}
    served = next(name for name in (SERVED, RERANKED, FUSED) if name in ranked)
    groups = item_groups(catalogue, item_users, training_data.first_seen, split.test_from)
    return Evaluation(
        split=split.report,
        seed=seed,
        systems=systems,
        baselines=list(baselines),
        slices=slices,
        chosen=chosen,
        lifts=lifts,
        baseline_lifts={name: ndcg_lift(ranked[served], ranked[name], split.test, seed) for name in baselines},
        heads={} if pipeline.scorer is None else pipeline.scorer.scorer.metadata.heads,
        exposure=measure_exposure(ranked, served, split.test, groups),
    )


def pipeline_systems(
    pipeline: FittedPipeline, split: Split, settings: Settings, ablate: bool = False, progress: Progress | None = None
) -> dict[str, Rank]:
    """Return the systems to measure: each retriever alone, all fused, reranked, and as served."""
    generator, builder = pipeline.candidate_generator, pipeline.present.builder
    scorer = None if pipeline.scorer is None else pipeline.scorer.scorer

    def fused(name: str, by: CandidateGenerator) -> Rank:
        return lambda: rank_all(by, split.test, name, progress)

    def reranked(name: str, by: RankingPipeline) -> Rank:
        return lambda: rerank_all(by, split.test, split.test_from, name, progress)

    systems: dict[str, Rank] = {}
    for name, retriever in pipeline.retrievers.items():
        alone = CandidateGenerator({name: retriever}, LinearScoreModel(weights={name: 1.0}), pipeline.items)
        systems[name] = fused(name, alone)
    systems[FUSED] = fused(FUSED, generator)
    if scorer is not None:
        systems[RERANKED] = reranked(RERANKED, RankingPipeline(generator, builder, scorer, settings.head_values))
        for group in (*builder.layout.groups, HISTORY_GROUP) if ablate else ():
            hidden = RankingPipeline(generator, builder.hide(group), scorer, settings.head_values)
            name = f"{RERANKED} without {group}"
            systems[name] = reranked(name, hidden)
    popularity = count_popularity(split.before_test, split.test_from, settings.half_lives.popularity)
    long_tail = LongTailQuota.from_popularity(popularity, settings.tail_share)
    if settings.new_share or long_tail is not None:
        served = RankingPipeline(
            generator, builder, scorer, settings.head_values, settings.new_share, long_tail=long_tail
        )
        systems[SERVED] = reranked(SERVED, served)
    return systems


def rank_all(generator: CandidateGenerator, holdout: Holdout, name: str, progress: Progress | None = None) -> Rankings:
    """Return the DEEP best items for each of m users, without the items of their history.

    Args:
        generator: generates and orders the candidates.
        holdout: the m users, with their history.
        name: the name of the system, for progress.
        progress: called with the progress.

    Returns:
        Item indices [m, DEEP], -1 for none.
    """
    ranked = np.full((len(holdout), DEEP), -1, np.int64)
    for row in range(len(holdout)):
        user = UserHistory.from_interactions(holdout.history, row)
        items = generator.recommend(user, DEEP, np.unique(user.item)).items
        ranked[row, : len(items)] = items
        if progress:
            progress(f"rank: {name}", row + 1, len(holdout), "users")
    return ranked


def rerank_all(
    ranker: RankingPipeline, holdout: Holdout, now: float, name: str, progress: Progress | None = None
) -> Rankings:
    """Return rankings as `rank_all`, but by a ranking pipeline.

    Args:
        ranker: the pipeline.
        holdout: the m users, with their history.
        now: the time of the rankings, in epoch seconds.
        name: the name of the system, for progress.
        progress: called with the progress.
    """
    ranked = np.full((len(holdout), DEEP), -1, np.int64)
    for row in range(len(holdout)):
        user = UserHistory.from_interactions(holdout.history, row)
        items = ranker.recommend(user, DEEP, np.unique(user.item), now).items
        ranked[row, : len(items)] = items
        if progress:
            progress(f"rank: {name}", row + 1, len(holdout), "users")
    return ranked


def _slices(test: Holdout, item_users: NDArray[np.int64]) -> dict[str, tuple[NDArray[np.int64], Holdout]]:
    """Return by slice its users and targets: items without users, users without history, users with a long one."""
    lengths = np.diff(test.history.starts)
    heavy = np.flatnonzero(lengths >= max(1, np.quantile(lengths, HEAVY))) if len(lengths) else np.empty(0, np.int64)
    cold = np.flatnonzero(lengths == 0)
    return {
        "cold items": select_targets(test, item_users[test.targets] == 0),
        "cold users": (cold, test.select_users(cold)),
        "heavy users": (heavy, test.select_users(heavy)),
    }


def select_targets(holdout: Holdout, is_selected: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Holdout]:
    """Return the users with any of the selected targets, and a holdout of only these users and targets."""
    counts = ragged_offsets(is_selected)[holdout.starts]
    users = np.flatnonzero(np.diff(counts) > 0)
    starts = ragged_offsets(np.diff(counts)[users])
    return users, Holdout(holdout.history.select_users(users), starts, holdout.targets[is_selected])


def _count_item_users(interactions: Interactions) -> NDArray[np.int64]:
    """Return how many users interacted with each item, [items]."""
    pairs = np.unique(interactions.user * max(1, interactions.items) + interactions.item)
    return np.bincount(pairs % max(1, interactions.items), minlength=interactions.items)
