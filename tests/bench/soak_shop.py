"""The shop of the soak test: its items, its acknowledged changes, its feed and its random vectors."""

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
GRACE = 1.0  # seconds until every worker must know a change
LIVE = "live"  # domain of items that a client put


class Row(NamedTuple):
    """An item of the shop; replaced as a whole, so that a list of rows is one state of the shop."""

    item_id: str
    title: str
    description: str
    category: str
    price: float

    def live(self) -> dict[str, Any]:
        """Return the item as a client puts it."""
        return {**self._asdict(), "currency": "EUR", "domain": LIVE}


class Shop:
    """The state of the shop: its items, and when each change was acknowledged, by the monotonic clock."""

    def __init__(self, items: int) -> None:
        self.source = random.Random(SEED)
        self.words = ["".join(self.source.choices("aeioulnrstmdpbk", k=self.source.randint(3, 9))) for _ in range(3000)]
        self.rows = {row.item_id: row for row in (self.draw(f"sku-{number}", self.source) for number in range(items))}
        self.first = list(self.rows)
        self.drawn = set(self.first)  # items whose vectors are the random ones
        self.made: list[tuple[str, float]] = []  # items that clients added, and when
        self.deleted: dict[str, float] = {}  # when; infinite until acknowledged
        self.prices: dict[str, list[list[float]]] = {}  # by changed item: when (as above), and the price

    def draw(self, item_id: str, source: random.Random) -> Row:
        """Return a new item, or a new text and price for one."""
        title = " ".join(source.choices(self.words, k=4)).capitalize()
        description = " ".join(source.choices(self.words, k=14)).capitalize() + "."
        return Row(item_id, title, description, f"Kind {source.randrange(CLUSTERS)}", draw_price(source))

    def write_feed(self, path: Path, generation: int) -> None:
        """Write the shop as it is now, in the order and with the mark of a generation."""
        now = time.time()
        rows = list(self.rows.values())
        first = generation * 7919 % len(rows)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*Row._fields, "currency", "domain"])
            writer.writerows((*row, "EUR", mark(generation)) for row in rows[first:] + rows[:first])
        os.utime(path, (now, now))  # later changes are not in it

    def pricing(self, item_id: str, price: float) -> list[float]:
        """Record that an item is about to get a price; the caller sets the first value to the time of the change."""
        if item_id not in self.prices:
            self.prices[item_id] = [[-inf, self.rows[item_id].price]] if item_id in self.rows else []
        self.prices[item_id].append([inf, price])
        return self.prices[item_id][-1]

    def is_late(self, item_id: str, price: float, started: float) -> bool:
        """Return whether a request that began at `started` must not show this price any more."""
        known = self.prices.get(item_id, [])
        settled = max((index for index, (at, _) in enumerate(known) if at < started - GRACE), default=0)
        return bool(known) and price not in [each for _, each in known[settled:]]


def keep_vectors(store: Path) -> None:
    """Draw a vector for each text of the catalogue, near those of its category, and store it as if encoded."""
    generator = np.random.default_rng(SEED)
    dim = BundledTextEncoder.dim
    vectors = VectorStore(store, "text", BundledTextEncoder.fingerprint, dim)
    centres = generator.standard_normal((CLUSTERS, dim)) / dim**0.5
    axes = generator.standard_normal((CLUSTERS, SPREAD, dim)) / dim**0.5
    for batch in Catalogue.current(store).batches():
        drawn: dict[bytes, Any] = {}
        for item in batch:
            cluster = int((item.category or "").rpartition(" ")[2])
            centre = 0.35 * generator.standard_normal(SPREAD)
            for _, text in compose_texts(item):
                near = centre + 0.1 * generator.standard_normal(SPREAD)
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
