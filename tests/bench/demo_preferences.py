"""Hidden preferences of the demo shop's users: do recommendations match them, and do they follow a change?

For each human user, the first ten recommendations are compared with the user's hidden preferences: an item matches if
it has a kind or a colour that the user likes. The baseline is the share of such items among all items that are not
excluded. Then each user clicks three items of another kind and colour and gets new recommendations: the figures are the
shares of items with the kind or colour of the clicks, before and after. Only this measure reads the preferences;
training never sees them.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import orjson
from report import report
from rich.console import Console

from embed.behaviour import Event
from serve.cli import bars
from serve.core.settings import Settings
from serve.demo.shop import make_shop
from serve.engine.user_context import load_user_context
from serve.evaluation.ranking_metrics import bootstrap_interval
from serve.jobs.build import build
from serve.jobs.import_events import import_events
from serve.jobs.train import train
from serve.live.replica import open_engine
from serve.storage.event_log import open_event_log

SEED = 0
K = 10
USERS = 500
CONSOLE = Console(stderr=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, bars(quiet=False) as progress:
        folder = Path(name)
        make_shop(folder, progress=lambda done, total: progress("draw", done, total, "items") if progress else None)
        settings = Settings(store=folder / "store")
        build(settings, folder / "catalog.csv", progress=progress)
        import_events(settings, folder / "events.jsonl", progress=progress)
        train(settings, progress)
        build(settings, progress=progress)
        figures = measure(settings, folder)
    report("demo_preferences", figures, SEED, ("torch",))


def measure(settings: Settings, folder: Path) -> dict[str, float | int | str | None]:
    """Return the figures of USERS random human users."""
    engine, store = open_engine(settings), open_event_log(settings)
    items = [item for batch in engine.snapshot.release.catalogue.batches() for item in batch]
    kinds = np.array([kind_of(item.category) for item in items])
    colours = np.array([item.attributes["color"][0] for item in items])
    lines = (folder / "shoppers.jsonl").read_text().splitlines()
    users = [row for row in map(orjson.loads, lines) if not row["robot"]]
    random = np.random.default_rng(SEED)
    chosen = [users[row] for row in random.choice(len(users), USERS, replace=False)]
    names = sorted(set(kinds.tolist()))
    matches, expected, before, after = [], [], [], []
    for row in chosen:
        preferences = row.get("drifts_to") or row  # preferences that drift have reached their end by now
        liked_kinds = {plain(kind) for kind in preferences["kinds"]}
        liked = np.isin(kinds, list(liked_kinds)) | np.isin(colours, preferences["colors"])
        known = load_user_context(store, settings, row["user_id"])
        found = [one.item_index for one in engine.recommend(known.events, K, known.excluded_items)]
        matches.append(float(liked[found].mean()))
        excluded_items = {engine.snapshot.item_index(item_id) for item_id in known.excluded_items}
        expected.append(float(liked[[number for number in range(len(items)) if number not in excluded_items]].mean()))
        other_kinds = [kind for kind in names if kind not in liked_kinds]
        kind = other_kinds[random.integers(len(other_kinds))]
        clicked = random.choice(np.flatnonzero(kinds == kind), 3, replace=False)
        now = time.time()
        events = [
            Event(f"{row['user_id']}-{place}", row["user_id"], items[number].item_id, "click", now + place)
            for place, number in enumerate(clicked)
        ]
        fits = (kinds == kind) | np.isin(colours, colours[clicked])
        excluded = [*known.excluded_items, *(event.item_id for event in events)]
        moved = [one.item_index for one in engine.recommend([*known.events, *events], K, excluded)]
        before.append(float(fits[found].mean()))
        after.append(float(fits[moved].mean()))
    low, high = bootstrap_interval(np.array(matches), SEED)
    return {
        "match_at_10": round(float(np.mean(matches)), 4),
        "match_at_10_low": low,
        "match_at_10_high": high,
        "chance": round(float(np.mean(expected)), 4),
        "other_taste_before": round(float(np.mean(before)), 4),
        "other_taste_after_3_events": round(float(np.mean(after)), 4),
        "shoppers_that_moved": round(float(np.mean(np.array(after) > np.array(before))), 4),
        "shoppers": USERS,
    }


def kind_of(category: str | None) -> str:
    """Return the kind of an item: the last level of its category."""
    return plain((category or "").rpartition("/")[2])


def plain(kind: str) -> str:
    return kind.casefold().removesuffix("s")


if __name__ == "__main__":
    main()
