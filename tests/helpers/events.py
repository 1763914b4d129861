"""Events and impressions."""

from dataclasses import replace
from typing import Any

import numpy as np

from embed.behaviour import Event
from serve.storage.impression_log import ImpressionRecord, ShownItems

NOW = 1767225600.0


def shown_items(seed: int, scorer: str = "s", items: int = 3) -> ShownItems:
    random = np.random.default_rng(seed)
    return ShownItems(
        [f"i{number}" for number in range(items)],
        scorer,
        "best",
        random.random(items).astype(np.float32),
        np.ones(items, np.float32),
        random.normal(size=(items, 4)).astype(np.float16).astype(np.float32),
        random.random((items, 2)).astype(np.float32) / 4,
    )


def impression(number: int, user: str | None = "u", at: float = 0.0, **changed: Any) -> ImpressionRecord:
    return ImpressionRecord(f"r{number}", user, NOW + at, "release", replace(shown_items(number), **changed))


def click(number: int, item: str = "i0", user: str = "u", **changed: Any) -> Event:
    plain = Event(f"c{number}-{item}-{user}", user, item, "click", NOW + 60, request_id=f"r{number}")
    return replace(plain, **changed)
