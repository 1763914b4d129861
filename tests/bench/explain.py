"""Correctness of explanations: 1,000 requests to the demo shop with its scorer.

For each response, the contributions to every item are added up and compared with its score. Then the event with the
largest contribution to an item, positive or negative, is removed from the history, and the item is scored again: the
score must move in the direction of that contribution. Events that the sentence names are counted separately from those
that only the numbers contain; of the latter, only contributions of more than a fiftieth of the score count.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from cold_start import demo_store
from report import report
from rich.console import Console
from rich.progress import track

from serve.cli import bars
from serve.engine.user_context import load_user_context
from serve.jobs.build import build
from serve.jobs.train import train, train_scorer
from serve.live.replica import open_engine
from serve.recommend.retrieval.user_history import UserHistory
from serve.storage.event_log import open_event_log

SEED = 0
REQUESTS, K = 1000, 10
MIN_SHARE = 0.02  # of a score; smaller contributions are ignored


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
        settings = demo_store(Path(folder), progress)
        train(settings, progress)
        train_scorer(settings, progress)
        build(settings, progress=progress)
        engine, store = open_engine(settings), open_event_log(settings)
        users = np.array(list(store.users()))
        chosen = np.random.default_rng(SEED).choice(users, REQUESTS)
        worst = 0.0
        named: list[bool] = []
        unnamed: list[bool] = []
        ranker, now = engine.ranker, time.time()
        for user in track(chosen.tolist(), "explain", console=Console(stderr=True)):
            history = engine.user(load_user_context(store, settings, user).events)
            ranked = ranker.recommend(history, K, np.unique(history.item), now)
            assert ranked.output is not None
            explanations = ranker.explain(ranked, history, str, str)
            for score, each in zip(ranked.output.total.tolist(), explanations, strict=True):
                assert each is not None
                total = each.base + sum(each.parts.values()) + sum(event.value for event in each.history)
                worst = max(worst, abs(total - score))
            for position, each in enumerate(explanations):
                assert each is not None
                is_named = bool(each.history) and f" {each.history[0].item_id}" in each.sentence
                if not each.history or (position and not is_named):
                    continue
                item = ranked.items[position : position + 1]
                whole = ranker.rank(history, item, now)
                assert whole.output is not None
                score = float(whole.output.total[0])
                (reasons,) = ranker.explain(whole, history, str, str)
                assert reasons is not None
                first = reasons.history[0]
                if abs(first.value) < MIN_SHARE * score:
                    continue
                kept = history.item != int(first.item_id)
                without = UserHistory(history.item[kept], history.kind[kept], history.time[kept], history.weight[kept])
                after = ranker.rank(without, item, now)
                assert after.output is not None
                moved = score - float(after.output.total[0])
                (named if f" {first.item_id}" in reasons.sentence else unnamed).append(moved * first.value > 0)
    figures: dict[str, float | int | str | None] = {
        "max_sum_error": round(worst, 7),
        "directions_right": round(sum(named) / max(1, len(named)), 4),
        "directions_asked": len(named),
        "unnamed_right": round(sum(unnamed) / max(1, len(unnamed)), 4),
        "unnamed_asked": len(unnamed),
        "requests": REQUESTS,
    }
    report("explain", figures, SEED, ("torch", "onnxruntime"))


if __name__ == "__main__":
    main()
