"""A flood of clicks and 20 robots: do they change what others are shown?

The demo shop with towers and scorer. 600 shoppers are answered and click as the scorer foretells. Then one user clicks
400 times, on every item of 40 answers, and 20 robots are answered 30 times each and click on one and the same item.
Held against each other are the first ten of 300 other shoppers by what is learned with the flood and without it: as it
comes, when nobody new counts yet, and after the next look for robots, which every training takes.
"""

import tempfile
import time
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
SHOPPERS, OTHERS, K = 600, 300, 10
FLOOD, ROBOTS, ANSWERS = 40, 20, 30


def main() -> None:
    random = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
        settings = demo_store(Path(folder), progress)
        train(settings, progress)
        train_scorer(settings, progress)
        build(settings, progress=progress)
        engine, store = open_engine(settings), open_event_log(settings)
        users = np.array(list(store.users()))
        asked, others = np.split(random.permutation(users)[: SHOPPERS + OTHERS], [SHOPPERS])
        now = time.time()
        for number, user in enumerate(track(asked.tolist(), "shoppers", console=Console(stderr=True))):
            shown = answered(engine, store, settings, user, f"of {user}", now - 3600 + number)
            probabilities = shown.shown.probabilities[:, 0]
            acts(
                store,
                shown,
                [item for item, p in zip(shown.shown.items, probabilities, strict=True) if random.random() < p],
            )
        before = lists(engine, store, settings, others, now)
        for number in range(FLOOD):
            shown = answered(engine, store, settings, "flood", f"flood {number}", now - 600 + number)
            acts(store, shown, shown.shown.items)
        wanted = str(engine.snapshot.text(0))
        for robot in range(ROBOTS):
            for number in range(ANSWERS):
                shown = answered(engine, store, settings, f"robot{robot}", f"{robot} {number}", now - 600 + 20 * number)
                acts(store, shown, [wanted])
        during = lists(engine, store, settings, others, now)
        quarantine_bots(store)
        after = lists(engine, store, settings, others, now)
        quarantined = {one.user_id for one in Quarantine(store.database).entries()}
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


def answered(
    engine: Engine, store: EventLog, settings: Settings, user: str, request_id: str, at: float
) -> ImpressionRecord:
    """An answer to a user, logged as of a moment."""
    found: list[ShownItems] = []
    known = load_user_context(store, settings, user)
    engine.recommend(known.events, K, known.excluded_items, log=found.append)
    answer = ImpressionRecord(request_id, user, at, engine.snapshot.release.name, found[0])
    ImpressionLog(store.database).add([answer])
    return answer


def acts(store: EventLog, answer: ImpressionRecord, items: list[str]) -> None:
    """Clicks on some items of an answer; those that it did not show claim to be of it."""
    assert answer.user_id is not None
    user, request_id, time_ = answer.user_id, answer.request_id, answer.timestamp + 5
    store.add([Event(f"{request_id} {item}", user, item, "click", time_, request_id=request_id) for item in items])


def lists(engine: Engine, store: EventLog, settings: Settings, users: np.ndarray, now: float) -> list[list[int]]:
    """The first ten of each user, by a head that reads the whole log anew.

    All are asked at one moment: the hour of the day is a feature, and would turn a tie around by itself.
    """
    feedback = OnlineLearner(store, settings, engine.snapshot.release.behaviour.scorer)
    head = feedback.head
    feedback.catch_up()
    fresh = Engine(engine.snapshot, engine.context.encoders, settings, online_head=head)
    found = []
    for user in track(users.tolist(), "others", console=Console(stderr=True)):
        with patch("time.time", return_value=now):
            known = load_user_context(store, settings, user)
            found.append([one.item_index for one in fresh.recommend(known.events, K, known.excluded_items)])
    return found


if __name__ == "__main__":
    main()
