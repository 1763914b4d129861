"""New items: a tenth of all items is removed from the training data, and recall of these items is measured in the test.

On ml-100k (titles, genres, years) and on the demo shop (images, texts, attributes, prices). The held-out users and
their histories are those of `vetrina evaluate`, without the removed items; the targets are the removed items only. All
items are ranked, so that an item without interactions competes with all known items.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from movies import movie_store
from report import report
from rich.console import Console
from rich.table import Table

from embed.behaviour import Holdout, Split, collect_interactions, split_by_time
from embed.behaviour.holdout_metrics import hits, recall
from serve.cli import bars
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.demo.shop import make_shop
from serve.evaluation.baselines import rank_baseline
from serve.evaluation.evaluate import rank_all, rerank_all, select_targets
from serve.evaluation.ranking_metrics import DEEP, bootstrap_interval
from serve.jobs.build import build
from serve.jobs.import_events import import_events
from serve.jobs.train import open_release_and_spaces
from serve.recommend.ranking.pipeline import RankingPipeline
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.storage.event_log import open_event_log
from serve.training.tower_validation import choose, finish
from serve.training.towers_job import prepare_training_data

SEED = 0
SHARE = 0.1


def main() -> None:
    figures: dict[str, float | int | str | None] = {}
    table = Table("set", "system", "Recall@100 of new items", "95 %")
    for name, make in (("ml", movie_store), ("demo", demo_store)):
        with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
            settings = make(Path(folder), progress)
            found, targets = run(settings, Path(folder) / "work", progress)
        figures[f"{name}_targets"] = targets
        for system, (mean, low, high) in found.items():
            table.add_row(name, system, f"{mean:.4f}", f"{low:.4f}–{high:.4f}")
            figures |= {f"{name}_{system}_recall100": mean}
    Console().print(table)
    report("cold_start", figures, SEED, ("torch", "implicit"))


def demo_store(folder: Path, progress: Progress | None = None) -> Settings:
    """Create the demo shop in `folder`, build its store and import its events."""
    make_shop(folder)
    settings = Settings(store=folder / "store")
    build(settings, folder / "catalog.csv", progress=progress)
    import_events(settings, folder / "events.jsonl", progress=progress)
    return settings


def run(
    settings: Settings, folder: Path, progress: Progress | None
) -> tuple[dict[str, tuple[float, float, float]], int]:
    """Return Recall@100 of items without interactions with its interval, by system, and the number of targets."""
    release, spaces = open_release_and_spaces(settings, progress)
    store = open_event_log(settings)
    interactions, _ = collect_interactions(
        (batch for _, batch in store.batches()), release.catalogue.ids(), settings.signal
    )
    store.close()
    items = interactions.items
    cold = np.zeros(items, np.bool_)
    cold[np.random.default_rng(SEED).choice(items, int(items * SHARE), replace=False)] = True
    split = without(split_by_time(interactions), cold)
    with prepare_training_data(settings, release, spaces, folder) as training_data:
        chosen = choose(training_data, split, settings.towers, folder / "choose", progress)
        towers = finish(
            training_data, split.before_test, settings.towers, chosen.state.best_epoch, folder / "finish", {}, progress
        )
        retrievers = training_data.point_in_time(
            split.before_test, split.test_from, towers, chosen.score_model
        ).retrievers
        pipeline = RankingPipeline(
            CandidateGenerator(retrievers, chosen.score_model, items), None, None, {}, settings.new_share
        )
        ours = rerank_all(pipeline, split.test, split.test_from, "ours", progress)
        alone = rank_all(
            CandidateGenerator({"tower": retrievers["tower"]}, chosen.score_model, items), split.test, "tower", progress
        )
    ranked = {"ours": ours, "tower": alone}
    for name in ("popularity", "iALS"):
        ranked[name.lower()], *_ = rank_baseline(name, split, DEEP, SEED)
    found = {}
    for name, items_of_users in ranked.items():
        each = recall(hits(items_of_users, split.test), split.test, DEEP)
        found[name] = (round(float(each.mean()), 4), *bootstrap_interval(each, SEED))
    return found, len(split.test.targets)


def without(split: Split, cold: np.ndarray) -> Split:
    """Remove the cold items from training data and histories; keep only them as targets of the test."""

    def warm(holdout: Holdout) -> Holdout:
        return replace(holdout, history=holdout.history.where(~cold[holdout.history.item]))

    validation = warm(select_targets(split.validation, ~cold[split.validation.targets])[1])
    return replace(
        split,
        train=split.train.where(~cold[split.train.item]),
        before_test=split.before_test.where(~cold[split.before_test.item]),
        validation=validation,
        test=warm(select_targets(split.test, cold[split.test.targets])[1]),
    )


if __name__ == "__main__":
    main()
