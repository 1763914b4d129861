"""Traces of erased users: a search of every byte of the store, and of the data of the next training.

The demo shop with its events and logged impressions of 200 users; 20 of them are erased. The benchmark then searches
all files for their ids and the ids of their events and requests, including free pages and write-ahead logs.
"""

import tempfile
from pathlib import Path

import numpy as np
from cold_start import demo_store
from report import report
from rich.console import Console
from rich.progress import track

from embed.behaviour import collect_interactions
from serve.cli import bars
from serve.release.repository import open_current
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog, ImpressionRecord, ShownItems

SEED = 0
USERS, ERASED = 200, 20


def main() -> None:
    random = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as name, bars(quiet=False) as progress:
        settings = demo_store(Path(name), progress)
        store = open_event_log(settings)
        impressions, privacy = ImpressionLog(store.database), UserPrivacy(store.database, settings.store)
        users = random.choice(np.array(list(store.users())), USERS, replace=False).tolist()
        ones = np.ones(3, np.float32)
        impressions.add(
            [
                ImpressionRecord(
                    f"request-{user}-{number}",
                    user,
                    1.0e9,
                    "r",
                    ShownItems(["a", "b", "c"], "", "best", ones, ones),
                )
                for user in users
                for number in range(20)
            ]
        )
        erased = users[:ERASED]
        ids = [*erased, *(event.event_id for user in erased for event in store.recent(user, 10_000))]
        ids += [f"request-{user}-" for user in erased]
        before = traces(settings.store, ids)
        for user in track(erased, "erase", console=Console(stderr=True)):
            privacy.erase(user)
        left = traces(settings.store, ids)
        item_ids = open_current(settings.store).catalogue.ids()
        interactions, _ = collect_interactions((batch for _, batch in store.batches()), item_ids, settings.signal)
        store.close()
        trained = set(interactions.users.tolist()) & set(erased)
    figures: dict[str, float | int | str | None] = {
        "forgotten": ERASED,
        "words": len(ids),
        "traces_before": before,
        "traces_left": left + len(trained),
    }
    report("erasure", figures, SEED, ("sqlalchemy",))


def traces(folder: Path, ids: list[str]) -> int:
    """Return how many of the ids are in the bytes of any file."""
    data = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    encoded = [each.encode() for each in ids]
    return sum(
        any(each in content for content in data) for each in track(encoded, "search", console=Console(stderr=True))
    )


if __name__ == "__main__":
    main()
