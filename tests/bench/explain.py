"""Whether explanations say what is true: 1,000 requests to the demo shop with its scorer.

Of each answer the parts of every item are added up and held against its score. Then the interaction said to have
done most for or against an item is taken out of the history, and the same item is scored again: did the score
move in the direction that was said? Told apart are interactions that the sentence names, and those of which only the
numbers tell and that did more than a fiftieth of the score.
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
LEAST = 0.02  # share of a score below which an interaction did next to nothing


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
        settings = demo_store(Path(folder), progress)
        train(settings, progress)
        train_scorer(settings, progress)
        build(settings, progress=progress)
        engine, store = open_engine(settings), open_event_log(settings)
        users = np.array(list(store.users()))
        chosen = np.random.default_rng(SEED).choice(users, REQUESTS)
        worst, named, unnamed = 0.0, [], []
        ranker, now = engine.ranker, time.time()
        for user in track(chosen.tolist(), "explain", console=Console(stderr=True)):
            history = engine.user(load_user_context(store, settings, user).events)
            ranked = ranker.recommend(history, K, np.unique(history.item), now)
            assert ranked.output is not None
            told = ranker.explain(ranked, history, str, str)
            for score, of in zip(ranked.output.total.tolist(), told, strict=True):
                total = of.base + sum(of.parts.values()) + sum(one.value for one in of.history)
                worst = max(worst, abs(total - score))
            for place, of in enumerate(told):
                is_named = bool(of.history) and f" {of.history[0].item_id}" in of.sentence
                if not of.history or (place and not is_named):
                    continue
                item = ranked.items[place : place + 1]
                whole = ranker.rank(history, item, now)
                assert whole.output is not None
                score = float(whole.output.total[0])
                (reasons,) = ranker.explain(whole, history, str, str)
                first = reasons.history[0]
                if abs(first.value) < LEAST * score:
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
