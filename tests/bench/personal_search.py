"""Personalized search: does personalization improve the order of relevant items, and with which strength?

The demo shop with its events until nine tenths of the time; towers and scorer are trained on these. Each user who then
liked a new item searches for it twice. The first query is its kind in one word ("sneakers"): most items of the kind fit
equally well, so that only preferences separate them. The second is half of the words of its title, which are more
specific than preferences. `personal` is the strength of personalization. It is chosen on every second user, by the mean
of both kinds of queries, and measured on the others.
"""

import tempfile
from pathlib import Path

import numpy as np
import orjson
from report import report
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embed.behaviour import clean_event
from serve.cli import bars
from serve.core.settings import Settings
from serve.demo.shop import make_shop
from serve.engine.engine import Engine
from serve.engine.query import Query
from serve.engine.user_context import PersonalizationContext, load_user_context
from serve.evaluation.ranking_metrics import bootstrap_interval
from serve.jobs.build import build
from serve.jobs.import_events import import_events
from serve.jobs.train import train, train_scorer
from serve.live.replica import open_engine
from serve.storage.event_log import open_event_log

SEED = 0
K = 10
SHARE = 0.9  # of the events that are training data
STRENGTHS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
QUERIES = ("kind", "title")


def main() -> None:
    with tempfile.TemporaryDirectory() as name, bars(quiet=False) as progress:
        folder = Path(name)
        make_shop(folder)
        rows = sorted(
            (orjson.loads(line) for line in (folder / "events.jsonl").open()), key=lambda row: row["timestamp"]
        )
        cut = int(SHARE * len(rows))
        (folder / "before.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows[:cut]))
        settings = Settings(store=folder / "store")
        build(settings, folder / "catalog.csv", progress=progress)
        import_events(settings, folder / "before.jsonl", progress=progress)
        train(settings, progress)
        train_scorer(settings, progress)
        build(settings, progress=progress)
        gains = measure(settings, rows[cut:])
    chosen = STRENGTHS[int(gains[:, 0::2].mean((1, 2)).argmax())]
    table = Table("personal", "query", "NDCG@10 for the choice", "NDCG@10", "95 %")
    figures: dict[str, float | int | str | None] = {"shoppers": gains[:, 1::2].shape[1], "chosen": chosen}
    for strength, by_strength in zip(STRENGTHS, gains, strict=True):
        for query, gains_of_users in zip(QUERIES, by_strength.T, strict=True):
            low, high = bootstrap_interval(gains_of_users[1::2], SEED)
            means = f"{gains_of_users[0::2].mean():.4f}", f"{gains_of_users[1::2].mean():.4f}"
            table.add_row(str(strength), query, *means, f"{low:.4f}–{high:.4f}")
            figures[f"{query}_{strength}_ndcg10"] = round(float(gains_of_users[1::2].mean()), 4)
    Console().print(table)
    report("personal_search", figures, SEED, ("torch",))


def measure(settings: Settings, after: list[dict]) -> np.ndarray:
    """Return NDCG@10 by strength, user and kind of query, [strengths, users, queries]."""
    engine, store = open_engine(settings), open_event_log(settings)
    first: dict[str, str] = {}
    for row in after:
        event = clean_event(row, 0)
        if event.type in ("click", "cart", "purchase"):
            first.setdefault(event.user_id, event.item_id)
    gains = []
    for user, item_id in track(sorted(first.items()), "search", console=Console(stderr=True)):
        known = load_user_context(store, settings, user)
        number = engine.snapshot.item_index(item_id)
        if not known.events or item_id in known.excluded_items or number is None:
            continue
        item, title = engine.snapshot.item(number), (engine.snapshot.item(number).title or "").split()
        texts = (item.category or "").rpartition("/")[2], " ".join(title[::2])
        gains.append(
            [
                [gain(engine, text, PersonalizationContext(known.events, each), number) for text in texts]
                for each in STRENGTHS
            ]
        )
    return np.array(gains).transpose(1, 0, 2)


def gain(engine: Engine, text: str, personalization: PersonalizationContext, number: int) -> float:
    """Return NDCG@10 of a search with one relevant item."""
    found = [one.item_index for one in engine.search(Query(k=K, text=text), personalization)]
    return 1 / np.log2(2 + found.index(number)) if number in found else 0.0


if __name__ == "__main__":
    main()
