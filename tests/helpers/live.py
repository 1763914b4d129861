"""A small store of twelve items, live changes of it, and what its engines answer."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed.catalogue import Item
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query import Query
from serve.jobs.build import build
from serve.live.runtime import ServiceRuntime
from serve.security.api_keys import disable_keys

COLOURS = ("red", "blue", "green", "yellow", "black", "white", "purple")
THINGS = ("canvas shoe", "wool hat", "tea pot", "rain coat", "leather bag", "oak table", "desk lamp", "tin whistle")
LONG_AGO = time.time() - 100_000


def title(number: int) -> str:
    """A title for each number up to 56, no two alike."""
    return f"{COLOURS[number % 7]} {THINGS[number // 7]}"


def row(item_id: str, number: int, **fields: Any) -> dict[str, Any]:
    return {"item_id": item_id, "title": title(number), "price": float(number), "currency": "EUR", **fields}


def write_feed(path: Path, rows: list[dict[str, Any]], written: float = LONG_AGO) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    os.utime(path, (written, written))
    return path


def make_store(folder: Path, **options: Any) -> Settings:
    """A store of twelve items without images, i0 to i11, built from a feed that was written long ago."""
    configured = Settings(store=folder / "store", **options)
    build(configured, write_feed(folder / "feed.jsonl", [row(f"i{number}", number) for number in range(12)]))
    disable_keys(configured.store)
    return configured


def opened(configured: Settings) -> ServiceRuntime:
    """What answers in a process of its own, which looks at the store only when it is told to."""
    live = ServiceRuntime(configured)
    live.refresh()
    return live


def state(engine: Engine) -> dict[str, Item]:
    """Every item that is there."""
    snapshot = engine.snapshot
    there = np.setdiff1d(snapshot.everything, snapshot.deleted).tolist()
    return {snapshot.item_id(number): snapshot.item(number) for number in there}


def statuses(answer: Any) -> list[str]:
    return [each["status"] if isinstance(each, dict) else each.status for each in answer]


def answers(engine: Engine) -> dict[str, dict[str, float]]:
    """What a few questions find, with scores: words, each item's neighbours, and both filtered.

    By vectors: how rare a word is a release counts when it is made.
    """
    cheap = {"price": {"lte": 20}, "not": {"available": False}}
    found = {}
    for given_filter in ({}, cheap):
        for words in ("blue hat", "something to drink from", "red"):
            query = Query(k=100, text=words, filter=given_filter, spaces=["text"])
            found[f"{words} {given_filter}"] = engine.search(query)
        for item_id in state(engine):
            found[f"like {item_id} {given_filter}"] = engine.similar([item_id], 100, filter_=given_filter)
    return {name: {engine.snapshot.item_id(one.item_index): one.score for one in each} for name, each in found.items()}


def agree(first: Engine, second: Engine) -> None:
    assert state(first) == state(second)
    ours, theirs = answers(first), answers(second)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name] == pytest.approx(expected, abs=2e-4), name  # the encoder sees a text in other company


def changed_at_random(
    live: ServiceRuntime, model: dict[str, dict[str, Any]], probability: random.Random, steps: int
) -> None:
    """Make changes through the service and in a plain dict of rows."""
    for _ in range(steps):
        item_id = f"i{probability.randrange(18)}"
        kind = probability.choice(["put", "put", "put again", "patch", "delete"])
        if kind == "put":
            free = [number for number in range(56) if title(number) not in {each["title"] for each in model.values()}]
            fresh = row(item_id, probability.choice(free), available=probability.random() < 0.7)
            assert statuses(live.items.put([fresh])) == ["updated" if item_id in model else "created"]
            model[item_id] = fresh
        elif item_id not in model:
            assert (
                statuses(live.items.delete([item_id]))
                == statuses(live.items.patch([{"item_id": item_id, "price": 1}]))
                == ["unknown"]
            )
        elif kind == "put again":
            model[item_id] = {**model[item_id], "price": float(probability.randrange(40)), "domain": "sale"}
            live.items.put([model[item_id]])
            assert statuses(live.items.put([model[item_id]])) == ["unchanged"]
        elif kind == "patch":
            either = {"price": float(probability.randrange(40)), "available": probability.random() < 0.5}
            fields = dict(probability.sample([*either.items()], probability.choice([1, 1, 2])))
            live.items.patch([{"item_id": item_id, **fields}])
            model[item_id] = {**model[item_id], **fields}
        else:
            assert statuses(live.items.delete([item_id])) == ["deleted"]
            del model[item_id]
