"""Shops that nothing was tuned to: what is served with defaults, beside the best simple method of each shop.

Each shop is a public set of interactions (ml-100k, Amazon Beauty and Toys, and those of `interaction_sets`), of at most
2,000 users, cut by time or by each user's tail. Towers, score model and scorer are trained as `vetrina train` does, on
ids alone: there are no texts or photos. The simple method is the best on validation of popularity, recent popularity,
item-kNN, EASE and iALS, each tuned there. Both rank all items for each test user once.

`losses_beyond_interval` counts the shops where ours is below the simple method by more than the interval of the paired
difference, which is corrected for the number of shops (Bonferroni). Each shop is written when it is done, and a run
goes on where the last one ended; `--again` measures all anew, `--shop NAME` one.
"""

import argparse
import csv
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import interaction_sets
import numpy as np
from report import RESULTS, report
from rich.console import Console
from rich.table import Table

from embed.behaviour import Interactions, Split, split_by_time, split_user_tails
from embed.behaviour.holdout_metrics import hits, ndcg
from embed.behaviour.interactions import KINDS
from embed.catalogue import Item
from embed.ragged import make_offsets
from embed.towers.tower_features import Vocabulary
from serve.cli import bars
from serve.core.ranking_settings import HEADS
from serve.core.settings import Settings
from serve.evaluation.baselines import rank_baseline
from serve.evaluation.evaluate import FUSED, RERANKED, SERVED, pipeline_systems
from serve.evaluation.pipeline_fit import fit_pipeline
from serve.recommend.ranking.impressions import ImpressionTable
from serve.training.tower_validation import TrainingData

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data"))
SIMPLE = ("popularity", "recent popularity", "item-kNN", "EASE", "iALS")
SEED, USERS, MIN_LENGTH, K, DRAWS = 0, 2000, 5, 10, 10_000
SHOWN = RESULTS / "unseen_shops.json"
NO_IMPRESSIONS = ImpressionTable(
    np.empty(0, np.object_),
    np.empty(0),
    np.zeros(1, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.float32),
    np.zeros((0, len(HEADS)), np.bool_),
    np.empty(0, np.float32),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--shop", choices=sorted(SHOPS))
    arguments = parser.parse_args()
    done: dict[str, Any] = {} if arguments.again or not SHOWN.exists() else json.loads(SHOWN.read_text())
    for name in [arguments.shop] if arguments.shop else SHOPS:
        if name not in done or arguments.shop:
            started = time.perf_counter()
            done[name] = measure(SHOPS[name]()) | {"seconds": round(time.perf_counter() - started)}
            SHOWN.write_text(json.dumps(done, indent=1))
            Console(stderr=True).print(name, done[name])
    summarize({name: done[name] for name in SHOPS if name in done})


def summarize(shops: dict[str, dict[str, Any]]) -> None:
    """Print each shop, and report the figures over all."""
    table = Table("shop", "users", "best simple", "NDCG@10", "ours", "fused", "best retriever", "difference")
    losses, ratios = 0, []
    for name, shop in shops.items():
        low, high = shop["difference"]
        losses += high < 0
        if shop["users"] >= 500:
            ratios.append(shop["ours"] / shop["simple"])
        best = max(shop["retrievers"], key=shop["retrievers"].get)
        table.add_row(
            name,
            f"{shop['users']:,}",
            shop["best_simple"],
            *(f"{shop[key]:.4f}" for key in ("simple", "ours", "fused")),
            f"{best} {shop['retrievers'][best]:.4f}",
            f"{low:+.4f} to {high:+.4f}",
        )
    Console(width=140).print(table)
    figures = {
        "shops": len(shops),
        "losses_beyond_interval": losses,
        "ours_over_best_simple_median": round(float(np.median(ratios)), 4) if ratios else None,
        "ours_over_best_simple_min": round(min(ratios), 4) if ratios else None,
        "seconds": sum(shop["seconds"] for shop in shops.values()),
    }
    report("unseen", figures, SEED, ("torch", "implicit", "scipy"))


def interval(differences: "np.ndarray[Any, np.dtype[np.float64]]", error: float) -> tuple[float, float]:
    """Return the bootstrap interval of a mean [users] that misses it with probability `error`."""
    random = np.random.default_rng(SEED)
    means = [differences[random.integers(0, len(differences), len(differences))].mean() for _ in range(DRAWS)]
    low, high = np.quantile(means, [error / 2, 1 - error / 2])
    return float(low), float(high)


def measure(split: Split) -> dict[str, Any]:
    """Return NDCG@10 of what is served, its parts, and the simple methods."""

    def gain(ranked: "np.ndarray[Any, np.dtype[np.int64]]") -> "np.ndarray[Any, np.dtype[np.float64]]":
        return ndcg(hits(ranked[:, :K], split.test), split.test, K)

    simple = {name: rank_baseline(name, split, K, SEED) for name in SIMPLE}
    best = max(simple, key=lambda name: simple[name].validation_ndcg10)
    settings = Settings()
    items = [Item(str(number)) for number in range(split.test.history.items)]
    vocabulary = Vocabulary.learn(items, {})
    training_data = TrainingData(
        vocabulary,
        vocabulary.features(items, {}),
        {},
        {},
        {},
        np.full(len(items), np.nan),
        settings.half_lives,
    )
    with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
        pipeline = fit_pipeline(training_data, split, NO_IMPRESSIONS, settings, Path(folder), progress)
        systems = pipeline_systems(pipeline, split, settings)
        served = next(name for name in (SERVED, RERANKED, FUSED) if name in systems)
        ranked = {name: systems[name]() for name in {*pipeline.retrievers, FUSED, served}}
    ours, theirs = gain(ranked[served]), gain(simple[best].ranked)
    return {
        "users": len(split.test),
        "without_history": int((np.diff(split.test.history.starts) == 0).sum()),
        "items": split.test.history.items,
        "best_simple": best,
        "simple": float(theirs.mean()),
        "ours": float(ours.mean()),
        "fused": float(gain(ranked[FUSED]).mean()),
        "retrievers": {name: float(gain(ranked[name]).mean()) for name in pipeline.retrievers},
        "simple_methods": {name: float(gain(each.ranked).mean()) for name, each in simple.items()},
        "options": {name: each.options for name, each in simple.items()},
        "difference": interval(ours - theirs, 0.05 / len(SHOPS)),
    }


def sampled(interactions: Interactions, shortest: int = MIN_LENGTH) -> Interactions:
    """Draw at most USERS users of at least `shortest` interactions, and keep the items that they have."""
    users = np.flatnonzero(np.diff(interactions.starts) >= shortest)
    users = np.sort(np.random.default_rng(SEED).permutation(users)[:USERS])
    drawn = interactions.select_users(users)
    items, item = np.unique(drawn.item, return_inverse=True)
    return Interactions(
        drawn.users, len(items), drawn.starts, item.astype(np.int32), drawn.kind, drawn.time, drawn.weight
    )


def movielens_100k() -> Interactions:
    """Return the ratings of 4 and more."""
    with (DATA / "ml-100k" / "events.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if float(row["rating"]) >= 4]
    user = np.unique([row["user_id"] for row in rows], return_inverse=True)[1]
    return _interactions(user, [row["item_id"] for row in rows], [float(row["timestamp"]) for row in rows])


def amazon(name: str) -> Interactions:
    """Return the purchases of a set that has an order, but no times: a day between two of a user."""
    lines = [line.split()[1:] for line in (DATA / "sequences" / f"{name}.txt").read_text().splitlines()]
    user = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    days = np.concatenate([np.arange(-len(line), 0) for line in lines])
    return _interactions(user, [item for line in lines for item in line], 86400.0 * days)


def _interactions(user: Any, items: list[str], times: Any) -> Interactions:
    item = np.unique(items, return_inverse=True)[1]
    order = np.lexsort((times, user))
    count = len(order)
    return Interactions(
        np.array([str(number) for number in range(user.max() + 1)], object),
        int(item.max()) + 1,
        make_offsets(np.bincount(user)),
        item[order].astype(np.int32),
        np.full(count, KINDS.index("purchase"), np.int8),
        np.asarray(times, np.float64)[order],
        np.ones(count, np.float32),
    )


def _shops() -> dict[str, Callable[[], Split]]:
    shops: dict[str, Callable[[], Split]] = {}
    sets: dict[str, Callable[[], Interactions]] = {
        "ml-100k": movielens_100k,
        **{name: lambda name=name: interaction_sets.load(name) for name in interaction_sets.SETS},
    }
    for name, load in sets.items():
        for cut, split in (("time", split_by_time), ("tails", split_user_tails)):
            shops[f"{name} by {cut}"] = lambda load=load, split=split: split(sampled(load()))
            shops[f"{name}, long histories, by {cut}"] = lambda load=load, split=split: split(sampled(load(), 20))
    for name in ("Beauty", "Toys_and_Games"):
        shops[f"{name} by tails"] = lambda name=name: split_user_tails(sampled(amazon(name)))
    return shops


SHOPS = _shops()

if __name__ == "__main__":
    main()
