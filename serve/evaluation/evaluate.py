"""`vetrina evaluate`: the real pipeline on held-out time, beside its parts and plain baselines.

The last tenth of all liked interactions is the test, the tenth before it validation (embed.behaviour.splits). Towers
and blend are chosen on validation, trained anew on all before the test, and asked once for each test shopper. What a
shopper had is left out, all other items are ranked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Holdout, Interactions, Split
from embed.catalogue import Catalogue
from serve.core.settings import Settings
from serve.evaluation.baselines import BASELINES, rank_baseline
from serve.evaluation.exposure import Exposure, exposure, kinds_of
from serve.evaluation.pipeline_fit import fit_stages
from serve.evaluation.ranking_metrics import DEEP, Measured, lift, measure
from serve.recommend.ranking.feature_builder import GROUPS, HISTORY_GROUP
from serve.recommend.ranking.impressions import ImpressionTable
from serve.recommend.ranking.pipeline import LongTailQuota, RankingPipeline
from serve.recommend.ranking.scorer import HeadMetrics
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.retrievers import popularity
from serve.recommend.retrieval.score_blend import LinearScoreModel
from serve.recommend.retrieval.user_history import UserHistory
from serve.training.tower_validation import Progress, TrainingData

FUSED = "fused"
RERANKED = "reranked"
SERVED = "as served"
"""Reranked, or fused where there is no scorer, with the share of places that is kept for what nobody had yet."""
HEAVY = 0.9  # quantile of history lengths from which a shopper is a heavy one


@dataclass(frozen=True)
class Evaluation:
    """Measures by system: each source alone, all fused, the baselines; and of slices of the test, if any is in them.

    `chosen` are the settings that validation chose. Where there was enough to train a scorer on, `lifts` are its
    NDCG@10 less that of the blend, of the best source, and, if wanted, of itself with a group of features hidden,
    with 95 % intervals, and `heads` is how its probabilities measure on shoppers that it did not learn from. `exposure`
    tells who is seen.
    """

    split: Mapping[str, int | float]
    seed: int
    systems: Mapping[str, Measured]
    baselines: Sequence[str]
    slices: Mapping[str, Mapping[str, Measured]]
    chosen: Mapping[str, Any]
    lifts: Mapping[str, tuple[float, float, float]]
    heads: Mapping[str, HeadMetrics]
    exposure: Exposure


def evaluate(
    training_data: TrainingData,
    catalogue: Catalogue,
    split: Split,
    shown: ImpressionTable,
    settings: Settings,
    folder: Path,
    ablate: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Fit on what came before the test, and measure on it; checkpoints go to `folder`.

    `shown` are the lists of the validation time. With `ablate` the scorer is also asked with each group of features
    hidden, which takes ten times as long.
    """
    seed = settings.towers.seed
    stages = fit_stages(training_data, split, shown, settings, folder, progress)
    chosen, fitted, retrievers = stages.chosen, stages.fitted, stages.retrievers
    rankers: dict[str, Callable[[], NDArray[np.int64]]] = {}
    for name, source in retrievers.items():
        alone = CandidateGenerator({name: source}, LinearScoreModel(weights={name: 1.0}), len(training_data))
        rankers[name] = lambda alone=alone, name=name: rank_all(alone, split.test, name, progress)  # type: ignore[misc]
    together = stages.recommender
    rankers[FUSED] = lambda: rank_all(together, split.test, FUSED, progress)
    if fitted is not None:
        groups = (*GROUPS, HISTORY_GROUP) if ablate else ()
        hidden = {RERANKED: None} | {f"{RERANKED} without {group}": group for group in groups}
        for name, group in hidden.items():
            maker = stages.present.maker if group is None else stages.present.maker.without(group)
            ranker = RankingPipeline(together, maker, fitted.scorer, settings.head_values)
            rankers[name] = lambda ranker=ranker, name=name: rerank_all(  # type: ignore[misc]
                ranker, split.test, split.test_from, name, progress
            )
    before = split.before_test
    shoppers_of = _shoppers_of(before)
    tail = LongTailQuota.of(popularity(before, split.test_from, settings.half_lives.popularity), settings.tail_share)
    if settings.new_share or tail is not None:
        scorer = fitted.scorer if fitted is not None else None
        served = RankingPipeline(
            together, stages.present.maker, scorer, settings.head_values, settings.new_share, tail=tail
        )
        rankers[SERVED] = lambda: rerank_all(served, split.test, split.test_from, SERVED, progress)
    told: dict[str, Any] = {"epochs": chosen.state.best_epoch, "blend": chosen.score_model.model_dump()}
    ranked = {name: rank() for name, rank in rankers.items()}
    baselines = {name if name not in ranked else f"{name} (all time)": name for name in BASELINES}
    for place, (label, name) in enumerate(baselines.items(), start=1):
        ranked[label], told[label] = rank_baseline(name, split, DEEP, seed)
        if progress:
            progress("baselines", place, len(baselines), "baselines")

    users = int((np.diff(before.starts) > 0).sum())

    def measured(of: NDArray[np.int64], holdout: Holdout) -> Measured:
        return measure(of, holdout, shoppers_of, users, seed)

    without = {name: ranked.pop(name) for name in list(ranked) if name.startswith(f"{RERANKED} without")}
    slices = {
        name: {system: measured(of[rows], part) for system, of in ranked.items()}
        for name, (rows, part) in _slices(split.test, shoppers_of).items()
        if len(part)
    }
    systems = {system: measured(of, split.test) for system, of in ranked.items()}
    lifts = {}
    if fitted is not None:
        best = max(retrievers, key=lambda name: systems[name].means["ndcg10"])
        others = {FUSED: ranked[FUSED], f"best source: {best}": ranked[best], **without}
        lifts = {name: lift(ranked[RERANKED], of, split.test, seed) for name, of in others.items()}
    heads = fitted.scorer.facts.heads if fitted is not None else {}
    last = next(name for name in (SERVED, RERANKED, FUSED) if name in ranked)
    shown_to = exposure(
        ranked, last, split.test, kinds_of(catalogue, shoppers_of, training_data.first_seen, split.test_from)
    )
    return Evaluation(split.report, seed, systems, list(baselines), slices, told, lifts, heads, shown_to)


def rank_all(
    recommender: CandidateGenerator, holdout: Holdout, name: str, progress: Progress | None = None
) -> NDArray[np.int64]:
    """The DEEP best items for each of m shoppers [m, DEEP], without what they had."""
    ranked = np.full((len(holdout), DEEP), -1, np.int64)
    for row in range(len(holdout)):
        user = UserHistory.of(holdout.history, row)
        found = recommender.recommend(user, DEEP, np.unique(user.item)).items
        ranked[row, : len(found)] = found
        if progress:
            progress(f"ask {name}", row + 1, len(holdout), "shoppers")
    return ranked


def rerank_all(
    ranker: RankingPipeline, holdout: Holdout, now: float, name: str, progress: Progress | None = None
) -> NDArray[np.int64]:
    """As `rank_all`, with the scorer's order, asked at a moment."""
    ranked = np.full((len(holdout), DEEP), -1, np.int64)
    for row in range(len(holdout)):
        user = UserHistory.of(holdout.history, row)
        found = ranker.recommend(user, DEEP, np.unique(user.item), now).found.items
        ranked[row, : len(found)] = found
        if progress:
            progress(f"ask {name}", row + 1, len(holdout), "shoppers")
    return ranked


def _slices(test: Holdout, shoppers_of: NDArray[np.int64]) -> dict[str, tuple[NDArray[np.int64], Holdout]]:
    """Shoppers and what to find of each: targets that nobody had before; shoppers without history; heavy shoppers."""
    lengths = np.diff(test.history.starts)
    heavy = np.flatnonzero(lengths >= max(1, np.quantile(lengths, HEAVY))) if len(lengths) else np.empty(0, np.int64)
    cold = np.flatnonzero(lengths == 0)
    return {
        "cold items": only_targets(test, shoppers_of[test.targets] == 0),
        "cold shoppers": (cold, test.of(cold)),
        "heavy shoppers": (heavy, test.of(heavy)),
    }


def only_targets(holdout: Holdout, wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Holdout]:
    """The shoppers that have any of the wanted targets, and only these as targets."""
    counts = np.concatenate([[0], np.cumsum(wanted)])[holdout.starts]
    users = np.flatnonzero(np.diff(counts) > 0)
    starts = np.concatenate([[0], np.cumsum(np.diff(counts)[users])])
    return users, Holdout(holdout.history.of(users), starts, holdout.targets[wanted])


def _shoppers_of(interactions: Interactions) -> NDArray[np.int64]:
    """How many shoppers had each item, [items]."""
    pairs = np.unique(interactions.user * max(1, interactions.items) + interactions.item)
    return np.bincount(pairs % max(1, interactions.items), minlength=interactions.items)
