"""Writes the demo shop into a folder: a feed with its photos, events, and the hidden profiles of the users."""

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import orjson

from serve.demo.draw import draw
from serve.demo.products import Product, make_products
from serve.demo.user_simulation import simulate

COLUMNS = (
    "item_id",
    "title",
    "description",
    "category",
    "brand",
    "price",
    "currency",
    "image",
    "images",
    "attributes",
    "domain",
    "updated_at",
)
_README = """\
The demo shop of Vetrina.

Everything in this folder is generated: the products, brands and prices are invented, the photos are drawn, and the
users and their events are simulated. No product, shop or person in it is real. The same seed gives the same bytes.

catalog.csv     {items} products of 12 kinds; `images` are separated by |, `attributes` is a JSON object
images/         {photos} photos
events.jsonl    {events} events of {users} users over 60 days, ordered by time
shoppers.jsonl  the hidden preferences of each user, for evaluation only: never train on them

seed {seed}
"""


def make_shop(
    folder: Path,
    items: int = 720,
    users: int = 2000,
    seed: int = 20260101,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write `catalog.csv`, `images/`, `events.jsonl`, `shoppers.jsonl` and `README.txt` into `folder`.

    The result depends on the arguments alone. Two or more processes draw a larger shop, so a script that calls this
    needs `if __name__ == "__main__":`.

    Args:
        folder: Folder to write into.
        items: Number of items.
        users: Number of users, without robots.
        seed: Seed of all random choices.
        progress: Called with the number of drawn items and the total.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    products = make_products(items, seed)
    for done, _ in enumerate(_draw_all(folder, products), start=1):
        if progress is not None:
            progress(done, items)
    with (folder / "catalog.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_row(product) for product in products)
    profiles, events = simulate(products, users, seed)
    _write_lines(folder / "shoppers.jsonl", profiles)
    _write_lines(folder / "events.jsonl", events)
    readme = _README.format(
        items=items,
        photos=sum(product.photos for product in products),
        events=len(events),
        users=len(profiles),
        seed=seed,
    )
    (folder / "README.txt").write_text(readme, encoding="utf-8")


def _draw_all(folder: Path, products: list[Product]) -> Iterator[None]:
    task, workers = partial(_draw_one, folder), min(os.cpu_count() or 1, len(products) // 100)
    if workers < 2:
        yield from map(task, products)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(task, products, chunksize=8)


def _draw_one(folder: Path, product: Product) -> None:
    for reference, picture in zip(_references(product), draw(product.appearance, product.photos), strict=True):
        picture.save(folder / reference, "JPEG", quality=90)


def _references(product: Product) -> list[str]:
    return [f"images/{product.item_id}{'' if photo == 0 else f'-{photo + 1}'}.jpg" for photo in range(product.photos)]


def _row(product: Product) -> list[str]:
    references = _references(product)
    attributes = {
        "color": product.appearance.color,
        "pattern": product.appearance.pattern,
        "material": product.material,
        "generated": "yes",
    }
    return [
        product.item_id,
        product.title,
        product.description,
        product.category,
        product.brand,
        f"{product.price:.2f}",
        "EUR",
        references[0],
        "|".join(references),
        orjson.dumps(attributes).decode(),
        "demo",
        datetime.fromtimestamp(product.arrived, UTC).isoformat(),
    ]


def _write_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
    with path.open("wb") as file:
        file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
