"""Two public data sets of purchases with the last item held out: towers, retrievers, score model and scorer.

Amazon Beauty and Toys in `sequences/`: one line for each user, items in order of time, five or more each. The last item
is the test, the one before it validation. All items are ranked, except those of the history. Epochs and score model are
chosen on validation; then the towers are trained again on training and validation together for that number of epochs,
and the test items are evaluated once. The defaults of the towers were tuned on validation too.

The item tower sees the items' attribute numbers, which are part of the data, as tags; there are no texts or images.
Takes about 25 minutes on two cores; `--set beauty` or `--set toys` runs one set.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import earlier, report
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embed.behaviour import Holdout, Interactions, Split, leave_one_out
from embed.behaviour.holdout_metrics import hits, ndcg, recall
from embed.behaviour.interactions import KINDS
from embed.encoders import choose_device
from embed.towers.tower_features import PRICE_PARTS, ItemFeatures, Vocabulary
from embed.towers.tower_network import EmbeddingSizes
from embed.towers.tower_settings import TowerSettings
from embed.towers.tower_training import TowerTrainer, fit
from embed.towers.two_tower_model import TrainedTowers
from index.exact_index import ExactIndex
from index.space import Space
from serve.cli import bars
from serve.core.ranking_settings import HEADS, ScorerSettings
from serve.recommend.ranking.feature_builder import FeatureBuilder
from serve.recommend.ranking.impressions import ImpressionTable
from serve.recommend.ranking.item_signals import TAG_GROUPS, ItemSignals, ItemTags
from serve.recommend.ranking.pipeline import RankingPipeline
from serve.recommend.retrieval.candidates import DEPTH, CandidateGenerator
from serve.recommend.retrieval.covisitation import Covisitation, CovisitationRetriever
from serve.recommend.retrieval.linear_score_model import LinearScoreModel, ScoreModelExample
from serve.recommend.retrieval.linear_score_model import fit as fit_score_model
from serve.recommend.retrieval.popularity import count_popularity
from serve.recommend.retrieval.retriever import Retriever
from serve.recommend.retrieval.retriever_results import StaticRetriever, order_by_score
from serve.recommend.retrieval.tower import TowerRetriever
from serve.recommend.retrieval.user_history import UserHistory
from serve.training.scorer_validation import FittedScorer, TrainingWindow, fit_scorer
from serve.training.tower_validation import PointInTimeFeatures

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "sequences"
SETS = {"beauty": "Beauty", "toys": "Toys_and_Games"}
SEED = 0
K = 10
SCORE_MODEL_USERS = 4000
SCORER_USERS = 12_000
NO_IMPRESSIONS = ImpressionTable(
    np.empty(0, np.object_),
    np.empty(0),
    np.zeros(1, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.float32),
    np.zeros((0, len(HEADS)), np.bool_),
    np.empty(0, np.float32),
)
GROUP_OF_TAG = np.full(1 << 20, TAG_GROUPS.index("attributes"))
CONSOLE = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=sorted(SETS))
    chosen = parser.parse_args().set
    table = Table("set", "stage", "NDCG@10", "Recall@10")
    for name in [chosen] if chosen else SETS:
        interactions, tags = load(SETS[name])
        measured, seconds = run(name, leave_one_out(interactions), tags)
        figures: dict[str, Any] = {f"{name}_train_s": round(seconds)}
        for stage, (gain, found) in measured.items():
            table.add_row(name, stage, f"{gain:.4f}", f"{found:.4f}")
            figures |= {f"{name}_{stage}_ndcg10": round(gain, 4), f"{name}_{stage}_recall10": round(found, 4)}
        # Written after each set, which takes a quarter of an hour.
        figures = earlier("sequences") | figures
        slowest = max(figures[f"{each}_train_s"] for each in SETS if f"{each}_train_s" in figures)
        report("sequences", figures | {"train_s": slowest}, SEED, ("torch", "numpy", "scipy"))
    Console().print(table)


def load(name: str) -> tuple[Interactions, list[list[int]]]:
    """Return the interactions, all purchases without a time, and the attribute numbers of each item."""
    lines = [list(map(int, line.split())) for line in (DATA / f"{name}.txt").read_text().splitlines()]
    item = np.array([number - 1 for _, *items in lines for number in items], np.int32)
    starts = np.cumsum([0] + [len(line) - 1 for line in lines])
    count = len(item)
    items = int(item.max()) + 1
    interactions = Interactions(
        np.array([str(line[0]) for line in lines], object),
        items,
        starts,
        item,
        np.full(count, KINDS.index("purchase"), np.int8),
        np.zeros(count),
        np.ones(count, np.float32),
    )
    attributes = json.loads((DATA / f"{name}_item2attributes.json").read_text())
    return interactions, [attributes.get(str(number), []) for number in range(1, items + 1)]


def run(name: str, split: Split, tags: list[list[int]]) -> tuple[dict[str, tuple[float, float]], float]:
    """Return NDCG and recall of the test items by stage, and the seconds of training."""
    flat = np.array([tag for tags_of_item in tags for tag in tags_of_item], np.int64)
    features = ItemFeatures(
        np.arange(1, len(tags) + 1),
        {},
        flat,
        np.concatenate([[0], np.cumsum([len(tags_of_item) for tags_of_item in tags])]).astype(np.int64),
        np.zeros((len(tags), PRICE_PARTS), np.float32),
    )
    sizes, settings = EmbeddingSizes(items=len(tags), tags=int(flat.max())), TowerSettings(seed=SEED, item_dropout=0.0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        device = choose_device()
        chosen = TowerTrainer(settings, sizes, features, split.train, device.kind)
        state = fit(
            chosen,
            split.validation,
            Path(folder) / "choose",
            on_epoch=lambda epoch, metrics: print_epoch(name, epoch, metrics),
        )
        first = TrainedTowers(chosen.trained(Vocabulary(), {}).towers.cpu(), Vocabulary(), {})  # as a server uses them
        score_model = learn_score_model(split, first, features)
        CONSOLE.print(name, "epochs", state.best_epoch, "score model", score_model)
        final = TowerTrainer(settings, sizes, features, split.before_test, device.kind)
        fit(final, None, Path(folder) / "final", epochs=state.best_epoch)
        fitted = learn_scorer(split, first, features, score_model, Path(folder) / "scorer")
    trained = TrainedTowers(final.trained(Vocabulary(), {}).towers.cpu(), Vocabulary(), {})
    torch.set_num_threads(1)  # as a server does
    seconds = time.perf_counter() - started
    present = build_point_in_time(split.before_test, trained, features, score_model)
    retrievers = present.retrievers
    alone = {
        each: CandidateGenerator({each: retriever}, LinearScoreModel(weights={each: 1.0}), len(tags))
        for each, retriever in retrievers.items()
    }
    measured = {each: measure(generator, split.test, f"{name} {each}") for each, generator in alone.items()}
    together = CandidateGenerator(retrievers, score_model, len(tags))
    measured["fused"] = measure(together, split.test, f"{name} fused")
    pipeline = RankingPipeline(together, present.builder, fitted.scorer, {"purchase": 1.0})
    measured["reranked"] = measure(pipeline, split.test, f"{name} reranked")
    return measured, seconds


def build_point_in_time(
    interactions: Interactions, trained: TrainedTowers, features: ItemFeatures, score_model: LinearScoreModel
) -> PointInTimeFeatures:
    """Return retrievers and features that are based on some interactions."""
    vectors = trained.item_vectors(features)
    owners = np.arange(len(vectors), dtype=np.int32)
    index = ExactIndex(Space("tower", vectors.shape[1], ""), vectors, owners, owners, len(vectors))
    popular = count_popularity(interactions, 0.0, 30.0)

    def vector(user: UserHistory) -> np.ndarray:
        return trained.user_vector(vectors[user.item], user.kind, user.time)

    counted = Covisitation.count(interactions, 0.0)
    retrievers: dict[str, Retriever] = {
        "tower": TowerRetriever(index, vector),
        "covisitation": CovisitationRetriever(counted),
        "popularity": StaticRetriever(popular, order_by_score(popular)),
    }
    unknown, tags = np.full(len(vectors), np.nan), ItemTags(features.tags, features.tag_starts, GROUP_OF_TAG)
    signals = ItemSignals(unknown.astype(np.float32), np.zeros(len(vectors), np.float32), unknown, tags)
    return PointInTimeFeatures(
        retrievers, FeatureBuilder({"tower": index}, signals.take, counted, score_model.smoothing)
    )


def learn_scorer(
    split: Split, trained: TrainedTowers, features: ItemFeatures, score_model: LinearScoreModel, folder: Path
) -> FittedScorer:
    """Train the scorer on the items that the held-out users bought next."""
    past = build_point_in_time(split.train, trained, features, score_model)
    settings = ScorerSettings(seed=SEED, max_lists=SCORER_USERS)
    window = TrainingWindow(
        CandidateGenerator(past.retrievers, score_model, split.train.items),
        past.builder,
        split.before_test,
        split.validation,
        0.0,
        NO_IMPRESSIONS,
        settings.max_lists,
    )
    with bars(quiet=False) as progress:
        fitted = fit_scorer([window], settings, trained.fingerprint, folder, progress)
    assert fitted is not None
    return fitted


def learn_score_model(split: Split, trained: TrainedTowers, features: ItemFeatures) -> LinearScoreModel:
    """Fit the linear score model on the validation items."""
    retrievers = build_point_in_time(split.train, trained, features, LinearScoreModel()).retrievers
    generator = CandidateGenerator(retrievers, LinearScoreModel(), split.train.items)
    held = split.validation.sample(SCORE_MODEL_USERS, SEED)
    examples = []
    for row in track(range(len(held)), "score model", console=CONSOLE):
        user = UserHistory.from_interactions(held.history, row)
        found = generator.generate(user, DEPTH, np.unique(user.item))
        targets = held.targets[held.starts[row] : held.starts[row + 1]]
        examples.append(ScoreModelExample(found.scores, np.isin(found.items, targets)))
    return fit_score_model(examples, list(retrievers))


def measure(generator: CandidateGenerator | RankingPipeline, held: Holdout, label: str) -> tuple[float, float]:
    """Return NDCG and recall, with one process for each core; each ranks for one user at a time, as a server does."""

    def rank(row: int) -> np.ndarray:
        user = UserHistory.from_interactions(held.history, row)
        excluded = np.unique(user.item)
        if isinstance(generator, RankingPipeline):
            items = generator.recommend(user, K, excluded, 0.0).items
        else:
            items = generator.recommend(user, K, excluded).items
        return np.pad(items, (0, K - len(items)), constant_values=-1)

    _rankers.append(rank)  # forked processes inherit it; it cannot be pickled
    with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        found = pool.imap(_rank, range(len(held)), chunksize=64)
        ranked_items = np.stack(list(track(found, label, len(held), console=CONSOLE)))
    _rankers.pop()
    hit = hits(ranked_items, held)
    return float(ndcg(hit, held, K).mean()), float(recall(hit, held, K).mean())


_rankers: list[Callable[[int], np.ndarray]] = []


def _rank(row: int) -> np.ndarray:
    return _rankers[-1](row)


def print_epoch(name: str, epoch: int, metrics: dict[str, float]) -> None:
    """Print the metrics of an epoch."""
    CONSOLE.print(f"{name} epoch {epoch}:", ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))


if __name__ == "__main__":
    main()
