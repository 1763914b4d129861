"""Image search in the shop's own domain, with and without adapters learned from the catalogue.

Luma: five folds, split by parent product. A query is the colour, title, category and start of the description of an
item; the figure is recall in the first 10 among the held-out items. Without alignment, the text vectors of the bundled
encoders do not lie in the image space, so recall equals that of a random order.

Grocery: the 969 test photos against the 81 products, with their train photos and with the packshot alone, as in
grocery.py. Adapters learn from the photos of the catalogue. With one photo a product, there is nothing to learn from.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from grocery import read, recall, shop
from report import report
from rich.console import Console
from rich.progress import track

from embed.alignment.adapter_training import MAX_EPOCHS, PATIENCE, SEED
from embed.alignment.pairs import TextImagePairs, collect_pairs
from embed.alignment.text_adapter import TextAdapterLearner, image_ranks
from embed.catalogue import Catalogue, FeedMapping, ingest
from embed.encode_job import encode_images
from embed.encoders import choose_device, load_image_encoder, load_text_encoder
from embed.images import ImageSource
from embed.training_loop import fit

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data"))
MAPPING = Path(__file__).parents[1] / "data" / "luma.toml"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = luma(Path(folder)) | grocery(Path(folder))
    report("align", figures, seed=SEED, packages=("torch", "openvino"))


def luma(folder: Path) -> dict[str, float]:
    """Return recall in the first 10 from text to image, averaged over the folds, and that of a random order."""
    device = choose_device()
    data = DATA / "magento-luma"
    ingest(data / "catalog.csv", folder, mapping=FeedMapping.load(MAPPING))
    catalogue = Catalogue.current(folder)
    images = encode_images(folder, catalogue, load_image_encoder("bundled", device), ImageSource(data), readers=2)
    parents = [item.attributes["parent_sku"][0] for batch in catalogue.batches() for item in batch]
    _, product = np.unique(parents, return_inverse=True)
    pairs = collect_pairs(catalogue, images, product, load_text_encoder("bundled", device), SEED)
    fold = np.random.default_rng(SEED).permutation(product.max() + 1) % 5
    recalls, expected, sizes = [], [], []
    for number in track(range(5), "luma", console=Console(stderr=True)):
        test, rest = pairs.select(np.flatnonzero(fold == number)), np.flatnonzero(fold != number)
        recalls.append(held_out(pairs, rest, test, folder / str(number)))
        expected.append(min(1.0, 10 / len(test)))
        sizes.append(len(test))
    return {
        "luma_held_out": round(float(np.mean(sizes)), 1),
        "luma_words_to_image_r10": round(float(np.mean(recalls)), 4),
        "luma_unaligned_r10": round(float(np.mean(expected)), 4),
    }


def held_out(pairs: TextImagePairs, rest: np.ndarray, test: TextImagePairs, folder: Path) -> float:
    """Train as a build does: choose the epochs on a quarter of the rest, then train on all of it; return recall@10."""
    rest = np.random.default_rng(SEED).permutation(rest)
    choose, learn = pairs.select(rest[: len(rest) // 4]), pairs.select(rest[len(rest) // 4 :])
    learner = TextAdapterLearner(learn, False, SEED, "cpu", choose)
    epochs = fit(learner, folder / "choose", MAX_EPOCHS, PATIENCE, learner.measure, "mrr").best_epoch
    whole = TextAdapterLearner(pairs.select(rest), False, SEED, "cpu")
    fit(whole, folder / "finish", epochs)
    return float((image_ranks(whole.queries(test), test.images, test.images) <= 10).mean())


def grocery(folder: Path) -> dict[str, float]:
    """Return the share of test photos whose product comes first, by photo vectors as encoded and by adapted ones."""
    products, photos = read("catalog.csv"), read("photos.csv")
    photos = [photo for photo in photos if (DATA / "grocery-store" / photo["photo"]).exists()]
    train: dict[str, list[str]] = {}
    for photo in photos:
        if photo["split"] == "train":
            train.setdefault(photo["item_id"], []).append(photo["photo"])
    queries = [photo for photo in photos if photo["split"] == "test"]
    figures: dict[str, float] = {}
    for more, name in ((train, "photos"), ({}, "packshot")):
        for when, align in (("before", False), ("after", True)):
            engine = shop(folder / f"{name}-{when}", products, more, align)
            figures[f"grocery_{name}_r1_{when}"], _ = recall(engine, queries, f"grocery {name} {when}")
    return figures


if __name__ == "__main__":
    main()
