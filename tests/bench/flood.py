"""A flood of clicks and 20 bots: do they change the recommendations of other users?

The demo shop with towers and scorer. 600 users get responses and click with the probabilities that the scorer predicts.
Then one user clicks 400 times, on every item of 40 responses, and 20 bots get 30 responses each and always click the
same item. The first ten recommendations of 300 other users are compared with and without the flood: as it arrives, when
new users do not count yet, and after the next bot detection, which every training runs.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from cold_start import demo_store
from report import report
from rich.console import Console
from rich.progress import track

from embed.behaviour import Event
from serve.cli import bars
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.user_context import load_user_context
from serve.jobs.build import build
from serve.jobs.train import train, train_scorer
from serve.live.online_learning import OnlineLearner
from serve.live.replica import open_engine
from serve.storage.bot_detection import quarantine_bots
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog, ImpressionRecord, ShownItems
from serve.storage.quarantine import Quarantine

SEED = 0
USERS, OTHERS, K = 600, 300, 10
FLOOD, BOTS, RESPONSES = 40, 20, 30


def main() -> None:
    random = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
        settings = demo_store(Path(folder), progress)
        train(settings, progress)
        train_scorer(settings, progress)
        build(settings, progress=progress)
        engine, store = open_engine(settings), open_event_log(settings)
        users = np.array(list(store.users()))
        active, others = np.split(random.permutation(users)[: USERS + OTHERS], [USERS])
        now = time.time()
        for number, user in enumerate(track(active.tolist(), "users", console=Console(stderr=True))):
            shown = recommend_and_log(engine, store, settings, user, f"of {user}", now - 3600 + number)
            probabilities = shown.shown.probabilities[:, 0]
            click(
                store,
                shown,
                [item for item, p in zip(shown.shown.items, probabilities, strict=True) if random.random() < p],
            )
        before = lists(engine, store, settings, others, now)
        for number in range(FLOOD):
            shown = recommend_and_log(engine, store, settings, "flood", f"flood {number}", now - 600 + number)
            click(store, shown, shown.shown.items)
        promoted = str(engine.snapshot.item_id(0))
        for bot in range(BOTS):
            for number in range(RESPONSES):
                at = now - 600 + 20 * number
                shown = recommend_and_log(engine, store, settings, f"robot{bot}", f"{bot} {number}", at)
                click(store, shown, [promoted])
        during = lists(engine, store, settings, others, now)
        quarantine_bots(store)
        after = lists(engine, store, settings, others, now)
        quarantined = {entry.user_id for entry in Quarantine(store.database).entries()}
        store.close()
    figures: dict[str, float | int | str | None] = {
        "lists": OTHERS,
        "lists_changed": sum(one != other for one, other in zip(before, after, strict=True)),
        "lists_changed_until_the_next_look": sum(one != other for one, other in zip(before, during, strict=True)),
        "places_changed_until_the_next_look": round(
            float(np.mean([len(set(one) - set(other)) for one, other in zip(before, during, strict=True)])), 3
        ),
        "in_quarantine": sum(user.startswith(("flood", "robot")) for user in quarantined),
    }
    report("flood", figures, SEED, ("torch", "scikit-learn"))


def recommend_and_log(
    engine: Engine, store: EventLog, settings: Settings, user: str, request_id: str, at: float
) -> ImpressionRecord:
    """Recommend items to a user, and log the impressions with a time."""
    found: list[ShownItems] = []
    known = load_user_context(store, settings, user)
    engine.recommend(known.events, K, known.excluded_items, log=found.append)
    record = ImpressionRecord(request_id, user, at, engine.snapshot.release.name, found[0])
    ImpressionLog(store.database).add([record])
    return record


def click(store: EventLog, response: ImpressionRecord, items: Sequence[str]) -> None:
    """Record clicks on items of a response; items that it did not show claim to be from it."""
    assert response.user_id is not None
    user, request_id, time_ = response.user_id, response.request_id, response.timestamp + 5
    store.add([Event(f"{request_id} {item}", user, item, "click", time_, request_id=request_id) for item in items])


def lists(engine: Engine, store: EventLog, settings: Settings, users: np.ndarray, now: float) -> list[list[int]]:
    """Return the first ten items of each user, with an online head that reads the whole log.

    All users get their lists at the same time: the hour of the day is a feature, which alone could swap tied items.
    """
    scorer = engine.snapshot.release.behaviour.scorer
    assert scorer is not None
    learner = OnlineLearner(store, settings, scorer)
    learner.catch_up()
    fresh = Engine(engine.snapshot, engine.context.encoders, settings, online_head=learner.head)
    found = []
    for user in track(users.tolist(), "others", console=Console(stderr=True)):
        with patch("time.time", return_value=now):
            known = load_user_context(store, settings, user)
            found.append([one.item_index for one in fresh.recommend(known.events, K, known.excluded_items)])
    return found


if __name__ == "__main__":
    main()
