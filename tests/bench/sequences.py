"""Two public data sets of purchases, last item out: the towers alone, the sources alone, their blend, the scorer.

Amazon Beauty and Toys in `sequences/`: one line a shopper, items in order of time, five or more each. The last item is
the test, the one before it validation. All items are ranked, those of the history are left out. Epochs and the blend
are chosen on validation; then the towers are trained anew on training and validation together for that number of
epochs, and the test items are looked at once. The defaults of the towers were tuned on validation too.

The item tower sees the items' attribute numbers, which come with the data, as tags; there are no texts or images.
Takes about 25 minutes on two cores; `--set beauty` or `--set toys` runs one.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
from serve.core.ranking_settings import ScorerSettings
from serve.recommend.ranking.feature_builder import FeatureBuilder
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
from serve.training.scorer_validation import FittedScorer, fit_scorer
from serve.training.tower_validation import PointInTimeFeatures

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "sequences"
SETS = {"beauty": "Beauty", "toys": "Toys_and_Games"}
SEED = 0
K = 10
BLEND_CASES = 4000
SCORER_CASES = 12_000
GROUP_OF_TAG = np.full(1 << 20, TAG_GROUPS.index("attributes"))
CONSOLE = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", choices=sorted(SETS))
    chosen = parser.parse_args().set
    table = Table("set", "what", "NDCG@10", "Recall@10")
    for name in [chosen] if chosen else SETS:
        interactions, tags = load(SETS[name])
        measured, seconds = run(name, leave_one_out(interactions), tags)
        figures = {f"{name}_train_s": round(seconds)}
        for what, (gain, found) in measured.items():
            table.add_row(name, what, f"{gain:.4f}", f"{found:.4f}")
            figures |= {f"{name}_{what}_ndcg10": round(gain, 4), f"{name}_{what}_recall10": round(found, 4)}
        # Written set by set: each takes a quarter of an hour.
        figures = earlier("sequences") | figures
        slowest = max(figures[f"{each}_train_s"] for each in SETS if f"{each}_train_s" in figures)
        report("sequences", figures | {"train_s": slowest}, SEED, ("torch", "numpy", "scipy"))
    Console().print(table)


def load(name: str) -> tuple[Interactions, list[list[int]]]:
    """The interactions, all purchases without a time, and the attribute numbers of each item."""
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
    """NDCG and recall of the test items by stage, and the seconds that training took."""
    flat = np.array([tag for of in tags for tag in of], np.int64)
    features = ItemFeatures(
        np.arange(1, len(tags) + 1),
        {},
        flat,
        np.concatenate([[0], np.cumsum([len(of) for of in tags])]).astype(np.int64),
        np.zeros((len(tags), PRICE_PARTS), np.float32),
    )
    sizes, settings = EmbeddingSizes(items=len(tags), tags=int(flat.max())), TowerSettings(seed=SEED, item_dropout=0.0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        device = choose_device()
        chosen = TowerTrainer(settings, sizes, features, split.train, device.kind)
        state = fit(chosen, split.validation, Path(folder) / "choose", on_epoch=lambda epoch, of: tell(name, epoch, of))
        first = TrainedTowers(chosen.trained(Vocabulary(), {}).towers.cpu(), Vocabulary(), {})  # as a server asks them
        score_model = learn_score_model(split, first, features)
        CONSOLE.print(name, "epochs", state.best_epoch, "blend", score_model)
        final = TowerTrainer(settings, sizes, features, split.before_test, device.kind)
        fit(final, None, Path(folder) / "final", epochs=state.best_epoch)
        fitted = learn_scorer(split, first, features, score_model, Path(folder) / "scorer")
    trained = TrainedTowers(final.trained(Vocabulary(), {}).towers.cpu(), Vocabulary(), {})
    torch.set_num_threads(1)  # as a server answers
    seconds = time.perf_counter() - started
    past = make_past(split.before_test, trained, features, score_model)
    retrievers = past.retrievers
    alone = {
        source: CandidateGenerator({source: of}, LinearScoreModel(weights={source: 1.0}), len(tags))
        for source, of in retrievers.items()
    }
    measured = {source: measure(recommender, split.test, f"{name} {source}") for source, recommender in alone.items()}
    together = CandidateGenerator(retrievers, score_model, len(tags))
    measured["fused"] = measure(together, split.test, f"{name} fused")
    ranker = RankingPipeline(together, past.builder, fitted.scorer, {"purchase": 1.0})
    measured["reranked"] = measure(ranker, split.test, f"{name} reranked")
    return measured, seconds


def make_past(
    interactions: Interactions, trained: TrainedTowers, features: ItemFeatures, score_model: LinearScoreModel
) -> PointInTimeFeatures:
    """Sources and features made of some interactions."""
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
    facts = ItemSignals(unknown.astype(np.float32), np.zeros(len(vectors), np.float32), unknown, tags)
    return PointInTimeFeatures(retrievers, FeatureBuilder({"tower": index}, facts.take, counted, score_model.smoothing))


def learn_scorer(
    split: Split, trained: TrainedTowers, features: ItemFeatures, score_model: LinearScoreModel, folder: Path
) -> FittedScorer:
    """The scorer, from what the held-out shoppers bought next."""
    past = make_past(split.train, trained, features, score_model)
    settings = ScorerSettings(seed=SEED, max_lists=SCORER_CASES)
    with bars(quiet=False) as progress:
        fitted = fit_scorer(
            CandidateGenerator(past.retrievers, score_model, split.train.items),
            past.builder,
            split.before_test,
            split.validation,
            0.0,
            None,
            settings,
            trained.fingerprint,
            folder,
            progress=progress,
        )
    assert fitted is not None
    return fitted


def learn_score_model(split: Split, trained: TrainedTowers, features: ItemFeatures) -> LinearScoreModel:
    retrievers = make_past(split.train, trained, features, LinearScoreModel()).retrievers
    recommender = CandidateGenerator(retrievers, LinearScoreModel(), split.train.items)
    held = split.validation.sample(BLEND_CASES, SEED)
    cases = []
    for row in track(range(len(held)), "blend", console=CONSOLE):
        user = UserHistory.from_interactions(held.history, row)
        found = recommender.generate(user, DEPTH, np.unique(user.item))
        targets = held.targets[held.starts[row] : held.starts[row + 1]]
        cases.append(ScoreModelExample(found.scores, np.isin(found.items, targets)))
    return fit_score_model(cases, list(retrievers))


def measure(recommender: CandidateGenerator | RankingPipeline, held: Holdout, what: str) -> tuple[float, float]:
    """NDCG and recall, with as many processes as there are cores; each asks one shopper at a time, as a server does."""

    def ask(row: int) -> np.ndarray:
        user = UserHistory.from_interactions(held.history, row)
        excluded = np.unique(user.item)
        if isinstance(recommender, RankingPipeline):
            items = recommender.recommend(user, K, excluded, 0.0).items
        else:
            items = recommender.recommend(user, K, excluded).items
        return np.pad(items, (0, K - len(items)), constant_values=-1)

    _asked.append(ask)  # children inherit it, as it cannot be sent
    with multiprocessing.get_context("fork").Pool(len(os.sched_getaffinity(0))) as pool:
        found = pool.imap(_ask, range(len(held)), chunksize=64)
        ranked_items = np.stack(list(track(found, what, len(held), console=CONSOLE)))
    _asked.pop()
    hit = hits(ranked_items, held)
    return float(ndcg(hit, held, K).mean()), float(recall(hit, held, K).mean())


_asked: list[Callable[[int], np.ndarray]] = []


def _ask(user: int) -> np.ndarray:
    return _asked[-1](user)


def tell(name: str, epoch: int, of: dict[str, float]) -> None:
    CONSOLE.print(f"{name} epoch {epoch}:", ", ".join(f"{key} {value:.4f}" for key, value in of.items()))


if __name__ == "__main__":
    main()
