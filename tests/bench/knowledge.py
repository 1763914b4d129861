"""Item relations: a fifth of the merchandisers' links is hidden and has to be found again, on Magento Luma.

Merchandisers linked products (`related`, `crosssell`). A fifth of the links of one relation is hidden, a different one
in each of five rounds; the store is built with the others. For each product with hidden links, all products without a
known link to it are ranked for its first item, each product by the best of its items. The hidden links are the targets;
the measure is recall in the first 20. `content` ranks by similarity (`similar`), `knowledge` as `vetrina related` does.
"""

import csv
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from report import report
from rich.console import Console
from rich.progress import track

from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.hybrid_search import Hit
from serve.engine.related_items import related_items
from serve.jobs.build import build
from serve.live.replica import open_engine
from serve.recommend.retrieval.item_relations import FILE, import_links

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "magento-luma"
MAPPING = Path(__file__).parents[1] / "data" / "luma.toml"
SEED, ROUNDS, K = 0, 5, 20
COLUMNS = ("parent_sku", "linked_parent_sku", "relation")


def main() -> None:
    with (DATA / "item_links.csv").open() as file:
        links = list(csv.DictReader(file))
    figures: dict[str, float | int | str | None] = {"links": len(links)}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(store=Path(folder) / "store", mapping=MAPPING)
        build(settings, DATA / "catalog.csv")
        for relation in ("related", "crosssell"):
            found: dict[str, list[float]] = {"related": [], "content": []}
            for turn in track(range(ROUNDS), relation, console=Console(stderr=True)):
                own = [index for index, link in enumerate(links) if link["relation"] == relation]
                hidden = set(np.random.default_rng([SEED, turn]).permutation(own)[: len(own) // 5].tolist())
                kept = [link for index, link in enumerate(links) if index not in hidden]
                with (Path(folder) / "links.csv").open("w", newline="") as file:
                    writer = csv.DictWriter(file, COLUMNS)
                    writer.writeheader()
                    writer.writerows({name: link[name] for name in COLUMNS} for link in kept)
                (settings.store / FILE).unlink(missing_ok=True)
                engine = rebuilt(settings, Path(folder) / "links.csv")
                for name, recall in measure(engine, relation, kept, [links[index] for index in sorted(hidden)]).items():
                    found[name] += recall
            prefix = "" if relation == "related" else "crosssell_"
            figures |= {
                f"{prefix}related_recall20": round(float(np.mean(found["related"])), 4),
                f"{prefix}content_recall20": round(float(np.mean(found["content"])), 4),
            }
    report("knowledge", figures, SEED, ("scipy",))


def rebuilt(settings: Settings, links: Path) -> Engine:
    """Import the links, rebuild the store, and return its engine."""
    from embed.catalogue import Catalogue

    import_links(links, Catalogue.current(settings.store), settings.store / FILE, COLUMNS, "parent_sku")
    build(settings, force=True)
    return open_engine(settings)


def measure(
    engine: Engine, relation: str, kept: Sequence[dict[str, str]], hidden: Sequence[dict[str, str]]
) -> dict[str, list[float]]:
    """Return recall@20 of each product with hidden links, by way of ranking."""
    items: dict[str, list[str]] = defaultdict(list)
    parent: dict[int, str] = {}
    for number in range(engine.snapshot.items):
        item = engine.snapshot.item(number)
        items[item.attributes["parent_sku"][0]].append(item.item_id)
        parent[number] = item.attributes["parent_sku"][0]
    targets: dict[str, set[str]] = defaultdict(set)
    for link in hidden:
        if link["parent_sku"] in items and link["linked_parent_sku"] in items:
            targets[link["parent_sku"]].add(link["linked_parent_sku"])
    known: dict[str, set[str]] = defaultdict(set)
    for link in kept:
        if link["relation"] == relation:
            known[link["parent_sku"]].add(link["linked_parent_sku"])
    ways: dict[str, Callable[[str], list[Hit]]] = {
        "related": lambda item: related_items(engine, item, engine.snapshot.items, relation),
        "content": lambda item: engine.similar([item], engine.snapshot.items),
    }
    recalls: dict[str, list[float]] = {name: [] for name in ways}
    for product, hidden_products in targets.items():
        for name, way in ways.items():
            products = dict.fromkeys(parent[one.item_index] for one in way(items[product][0]))
            ranked = [one for one in products if one != product and one not in known[product]][:K]
            recalls[name].append(len(hidden_products & set(ranked)) / len(hidden_products))
    return recalls


if __name__ == "__main__":
    main()
