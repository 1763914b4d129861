"""Writes the demo shop into a folder: a product feed with its pictures, events, and what only the simulator knows."""

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
from serve.demo.goods import Good, make_goods
from serve.demo.user_behaviour import simulate

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

Everything in this folder is generated: the products, brands and prices are invented, the pictures are drawn, and the
shoppers and their events are simulated. No real product, shop or person is in it. The same seed gives the same bytes.

catalog.csv     {items} products of 12 kinds; `images` are separated by |, `attributes` is a JSON object
images/         {photos} pictures
events.jsonl    {events} events of {users} users over 60 days, ordered by time
shoppers.jsonl  the hidden taste of each user, for evaluation only: never train on it

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

    `progress(done, total)` is called once per drawn item. A larger shop is drawn by two processes or more; so a
    script that calls this needs the usual `if __name__ == "__main__":`. The outcome depends on the arguments alone.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    goods = make_goods(items, seed)
    for done, _ in enumerate(_draw_all(folder, goods), start=1):
        if progress is not None:
            progress(done, items)
    with (folder / "catalog.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_row(good) for good in goods)
    tastes, events = simulate(goods, users, seed)
    _write_lines(folder / "shoppers.jsonl", tastes)
    _write_lines(folder / "events.jsonl", events)
    facts = _README.format(
        items=items, photos=sum(good.photos for good in goods), events=len(events), users=len(tastes), seed=seed
    )
    (folder / "README.txt").write_text(facts, encoding="utf-8")


def _draw_all(folder: Path, goods: list[Good]) -> Iterator[None]:
    task, workers = partial(_draw_one, folder), min(os.cpu_count() or 1, len(goods) // 100)
    if workers < 2:
        yield from map(task, goods)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(task, goods, chunksize=8)


def _draw_one(folder: Path, good: Good) -> None:
    for reference, picture in zip(_references(good), draw(good.look, good.photos), strict=True):
        picture.save(folder / reference, "JPEG", quality=90)


def _references(good: Good) -> list[str]:
    return [f"images/{good.item_id}{'' if photo == 0 else f'-{photo + 1}'}.jpg" for photo in range(good.photos)]


def _row(good: Good) -> list[str]:
    references = _references(good)
    attributes = {
        "color": good.look.color,
        "pattern": good.look.pattern,
        "material": good.training_data,
        "generated": "yes",
    }
    return [
        good.item_id,
        good.title,
        good.description,
        good.category,
        good.brand,
        f"{good.price:.2f}",
        "EUR",
        references[0],
        "|".join(references),
        orjson.dumps(attributes).decode(),
        "demo",
        datetime.fromtimestamp(good.arrived, UTC).isoformat(),
    ]


def _write_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
    with path.open("wb") as file:
        file.writelines(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
