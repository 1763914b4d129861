"""Whether anything is left of shoppers who are forgotten: every byte of the store, and what the next training sees.

The demo shop with its events, and answers logged to 200 shoppers beside; 20 of them are forgotten. Their ids, and the
ids of their events and answers, are looked for in all files, free pages and logs of writes included.
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
SHOPPERS, FORGOTTEN = 200, 20


def main() -> None:
    random = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as name, bars(quiet=False) as progress:
        settings = demo_store(Path(name), progress)
        store = open_event_log(settings)
        answers, rights = ImpressionLog(store.database), UserPrivacy(store.database, settings.store)
        users = random.choice(np.array(list(store.users())), SHOPPERS, replace=False).tolist()
        nothing = np.ones(3, np.float32)
        answers.add(
            [
                ImpressionRecord(
                    f"answer-{user}-{number}",
                    user,
                    1.0e9,
                    "r",
                    ShownItems(["a", "b", "c"], "", "best", nothing, nothing),
                )
                for user in users
                for number in range(20)
            ]
        )
        deleted = users[:FORGOTTEN]
        words = [*deleted, *(event.event_id for user in deleted for event in store.recent(user, 10_000))]
        words += [f"answer-{user}-" for user in deleted]
        before = traces(settings.store, words)
        for user in track(deleted, "forget", console=Console(stderr=True)):
            rights.erase(user)
        left = traces(settings.store, words)
        ids = open_current(settings.store).catalogue.ids()
        interactions, _ = collect_interactions((batch for _, batch in store.batches()), ids, settings.signal)
        store.close()
        trained = set(interactions.users.tolist()) & set(deleted)
    figures: dict[str, float | int | str | None] = {
        "forgotten": FORGOTTEN,
        "words": len(words),
        "traces_before": before,
        "traces_left": left + len(trained),
    }
    report("erasure", figures, SEED, ("sqlalchemy",))


def traces(folder: Path, words: list[str]) -> int:
    """How many of the words are in the bytes of any file."""
    data = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
    encoded = [word.encode() for word in words]
    return sum(any(word in one for one in data) for word in track(encoded, "look", console=Console(stderr=True)))


if __name__ == "__main__":
    main()
