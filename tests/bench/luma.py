"""The main job on a complete small shop (Magento Luma): build, rebuild, search, siblings and merchandisers' links.

Figures: see tests/bench/README.md. All steps run as a shop's engineer would run them, with `vetrina build`.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from report import report
from rich.console import Console
from rich.progress import track

from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query import Query
from serve.live.replica import open_engine

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "magento-luma"
MAPPING = Path(__file__).parents[1] / "data" / "luma.toml"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # A copy, because one title is edited below; images stay where they are.
        feed, store = Path(folder) / "catalog.csv", Path(folder) / "store"
        shutil.copy(DATA / "catalog.csv", feed)
        first, build_s = build(feed, store)
        again, rebuild_s = build(feed, store)
        text = feed.read_text("utf-8")
        feed.write_text(
            text.replace("MH01-Black,MH01,Chaz Kangeroo Hoodie", "MH01-Black,MH01,Chaz Edited Hoodie"), "utf-8"
        )
        edited, _ = build(feed, store)
        shutil.copy(DATA / "catalog.csv", feed)
        build(feed, store)
        settings = Settings(store=store)
        engine = open_engine(settings)
        figures = {
            "items": first["items"],
            "images": first["spaces"]["image"]["encoded"],
            "image_rows": first["spaces"]["image"]["rows"],
            "rejected": first["ingest"]["rejected"],
            "build_s": build_s,
            "rebuild_s": rebuild_s,
            "rebuild_encoded": encoded(again),
            "rebuild_encoded_after_edit": encoded(edited),
            **words(engine),
            **neighbours(engine),
        }
    report("luma", figures, seed=0, packages=("torch", "onnxruntime", "faiss-cpu"))


def build(feed: Path, store: Path) -> tuple[dict, float]:
    """Run `vetrina build`; return its JSON output and its seconds."""
    command = [str(Path(sys.executable).with_name("vetrina")), "build", str(feed), "--store", str(store), "--json"]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--mapping", str(MAPPING), "--images", str(DATA)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout), round(time.perf_counter() - started, 1)


def encoded(report_: dict) -> int:
    return sum(space["encoded"] for space in report_["encoded"])


def words(engine: Engine) -> dict[str, int]:
    """Return how many of the first five results for "black hoodie" are hoodies, and how many are black."""
    items = [
        engine.snapshot.release.catalogue.item(found.item_index)
        for found in engine.search(Query(k=5, text="black hoodie"))
    ]
    return {
        "hoodies_in_top5": sum("hoodie" in f"{item.title} {item.category}".lower() for item in items),
        "black_in_top5": sum("Black" in item.attributes.get("color", []) for item in items),
    }


def neighbours(engine: Engine) -> dict[str, float]:
    """Return siblings in the first ten by image, and `related` products in the first twenty, fused and by space.

    A sibling is the same product in another colour. Related links join products; an item is one colour of a product.
    The figure is the share of the linked products that have any colour among the neighbours. `related_at_20` counts
    the first 20 items, siblings included; `related_at_20_products` counts each product once, without the item's own.
    """
    items = [item for batch in engine.snapshot.release.catalogue.batches() for item in batch]
    parents = np.array([item.attributes["parent_sku"][0] for item in items])
    colors = defaultdict(int)
    for parent in parents:
        colors[parent] += 1
    links = defaultdict(set)
    with (DATA / "item_links.csv").open() as file:
        for row in csv.DictReader(file):
            if row["relation"] == "related" and row["linked_parent_sku"] in colors:
                links[row["parent_sku"]].add(row["linked_parent_sku"])
    sibling, related, related_products, by_space = [], [], [], defaultdict(list)
    for number, item in enumerate(track(items, "neighbours", console=Console(stderr=True))):
        if colors[parents[number]] > 1:
            found = parents[[one.item_index for one in engine.similar([item.item_id], 10, ["image"])]]
            sibling.append(parents[number] in found)
        if links[parents[number]]:
            linked = links[parents[number]]
            found = parents[[one.item_index for one in engine.similar([item.item_id], 100)]]
            related.append(len(linked & set(found[:20])) / len(linked))
            products = [parent for parent in dict.fromkeys(found.tolist()) if parent != parents[number]][:20]
            related_products.append(len(linked & set(products)) / len(linked))
            for space in engine.snapshot.release.spaces:
                alone = parents[[one.item_index for one in engine.similar([item.item_id], 20, [space])]]
                by_space[f"related_at_20_{space}"].append(len(linked & set(alone)) / len(linked))
    return {
        "sibling_at_10": round(float(np.mean(sibling)), 4),
        "related_at_20": round(float(np.mean(related)), 4),
        "related_at_20_products": round(float(np.mean(related_products)), 4),
        **{name: round(float(np.mean(shares)), 4) for name, shares in by_space.items()},
    }


if __name__ == "__main__":
    main()
