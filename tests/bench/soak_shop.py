"""The shop of the soak: its items, the changes that were acknowledged, its feed and its drawn vectors."""

import csv
import os
import random
import time
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embed.catalogue import Catalogue
from embed.encoders.bundled import BundledTextEncoder
from embed.text_composition import compose_texts
from embed.vector_store import VectorStore, as_keys, content_key

SEED = 0
CLUSTERS = 300
SPREAD = 8  # dimensions of a cluster
GRACE = 1.0  # seconds until every worker has to know a change
LIVE = "live"  # the domain of items that a client put


class Row(NamedTuple):
    """An item as the shop has it; replaced whole, so that a list of rows is one state of the shop."""

    item_id: str
    title: str
    description: str
    category: str
    price: float

    def live(self) -> dict[str, Any]:
        """The item as a client puts it."""
        return {**self._asdict(), "currency": "EUR", "domain": LIVE}


class Shop:
    """What the shop knows itself: its items, what of them was acknowledged when, and the clock by which that is."""

    def __init__(self, items: int) -> None:
        self.source = random.Random(SEED)
        self.words = ["".join(self.source.choices("aeioulnrstmdpbk", k=self.source.randint(3, 9))) for _ in range(3000)]
        self.rows = {row.item_id: row for row in (self.draw(f"sku-{number}", self.source) for number in range(items))}
        self.first = list(self.rows)
        self.drawn = set(self.first)  # items whose vectors are the drawn ones
        self.made: list[tuple[str, float]] = []  # items that clients added, and when
        self.deleted: dict[str, float] = {}  # when; infinite until it is acknowledged
        self.prices: dict[str, list[list[float]]] = {}  # by item that changed: when (as above), and the price

    def draw(self, item_id: str, source: random.Random) -> Row:
        """A new item, or new words for one."""
        title = " ".join(source.choices(self.words, k=4)).capitalize()
        description = " ".join(source.choices(self.words, k=14)).capitalize() + "."
        return Row(item_id, title, description, f"Kind {source.randrange(CLUSTERS)}", draw_price(source))

    def write_feed(self, path: Path, generation: int) -> None:
        """The shop as it is now, in the order and with the mark of a generation."""
        now = time.time()
        rows = list(self.rows.values())
        first = generation * 7919 % len(rows)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*Row._fields, "currency", "domain"])
            writer.writerows((*row, "EUR", mark(generation)) for row in rows[first:] + rows[:first])
        os.utime(path, (now, now))  # what changed while it was written is not in it

    def pricing(self, item_id: str, price: float) -> list[float]:
        """Note that an item is about to get a price; the note's first value is to be set when it has it."""
        if item_id not in self.prices:
            self.prices[item_id] = [[-inf, self.rows[item_id].price]] if item_id in self.rows else []
        self.prices[item_id].append([inf, price])
        return self.prices[item_id][-1]

    def is_late(self, item_id: str, price: float, started: float) -> bool:
        """Whether a request begun at `started` must not show this price any more."""
        known = self.prices.get(item_id, [])
        settled = max((place for place, (at, _) in enumerate(known) if at < started - GRACE), default=0)
        return bool(known) and price not in [each for _, each in known[settled:]]


def keep_vectors(store: Path) -> None:
    """Draw a vector for each text of the catalogue, near those of its category, and keep it as if it was encoded."""
    generator = np.random.default_rng(SEED)
    dim = BundledTextEncoder.dim
    vectors = VectorStore(store, "text", BundledTextEncoder.fingerprint, dim)
    centres = generator.standard_normal((CLUSTERS, dim)) / dim**0.5
    axes = generator.standard_normal((CLUSTERS, SPREAD, dim)) / dim**0.5
    for batch in Catalogue.current(store).batches():
        drawn: dict[bytes, Any] = {}
        for item in batch:
            cluster = int((item.category or "").rpartition(" ")[2])
            place = 0.35 * generator.standard_normal(SPREAD)
            for _, text in compose_texts(item):
                near = place + 0.1 * generator.standard_normal(SPREAD)
                noise = 0.2 * generator.standard_normal(dim) / dim**0.5
                drawn[content_key(text)] = centres[cluster] + near @ axes[cluster] + noise
        known = vectors.contains(as_keys(drawn))
        keys = [key for key, has in zip(drawn, known, strict=True) if not has]
        rows = np.stack([drawn[key] for key in keys])
        vectors.append(keys, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


def mark(generation: int) -> str:
    return f"generation-{generation}"


def number_of(item_id: str) -> int:
    return int(item_id.rpartition("-")[2])


def draw_price(source: random.Random) -> float:
    return round(source.uniform(1, 200), 2)
