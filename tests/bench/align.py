"""The shop's own domain: words and photos that find images, with and without adapters learned from the catalogue.

Luma: five folds split by parent product; words = colour, title, category and start of the description; recall in the
first 10 among the held-out items. Unaligned, with the bundled encoders, words cannot enter the image space: the figure
is chance. Grocery: the 969 test photos against the 81 products with their train photos, as in grocery.py; the adapter
learns from the catalogue's photos alone.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
from report import report
from rich.console import Console
from rich.progress import track

from embed.alignment.learning import MOST_EPOCHS, PATIENCE, SEED
from embed.alignment.pairs import Pairs, collect_pairs, products_of
from embed.alignment.words import WordsLearner, ranks
from embed.catalogue import Catalogue, Mapping, ingest
from embed.encode_job import encode_images
from embed.encoders import choose_device, load_image_encoder, load_text_encoder
from embed.fitting import fit
from embed.images import ImageSource

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data"))
MAPPING = Path(__file__).parents[1] / "data" / "luma.toml"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        figures = luma(Path(folder))
    report("align", figures, seed=SEED, packages=("torch", "openvino"))


def luma(folder: Path) -> dict[str, float]:
    device = choose_device()
    data = DATA / "magento-luma"
    ingest(data / "catalog.csv", folder, mapping=Mapping.load(MAPPING))
    catalogue = Catalogue.current(folder)
    images = encode_images(folder, catalogue, load_image_encoder("bundled", device), ImageSource(data), readers=2)
    parents = [item.attributes["parent_sku"][0] for batch in catalogue.batches() for item in batch]
    _, product = np.unique(parents, return_inverse=True)
    pairs = collect_pairs(catalogue, images, product, load_text_encoder("bundled", device), SEED)
    print(len(pairs), len(np.unique(product)), len(np.unique(products_of(catalogue, images))))
    fold = np.random.default_rng(SEED).permutation(product.max() + 1) % 5
    found, chance, held = [], [], []
    for number in track(range(5), "luma", console=Console(stderr=True)):
        test, rest = pairs.of(np.flatnonzero(fold == number)), np.flatnonzero(fold != number)
        found.append(recall(pairs, rest, test, folder / str(number)))
        chance.append(min(1.0, 10 / len(test)))
        held.append(len(test))
    return {
        "luma_held_out": round(float(np.mean(held)), 1),
        "luma_words_to_image_r10": round(float(np.mean(found)), 4),
        "luma_unaligned_r10": round(float(np.mean(chance)), 4),
    }


def recall(pairs: Pairs, rest: np.ndarray, test: Pairs, folder: Path) -> float:
    """As a build learns: some of the rest choose when to stop, then all of the rest are learned from as long."""
    rest = np.random.default_rng(SEED).permutation(rest)
    choose, learn = pairs.of(rest[: len(rest) // 4]), pairs.of(rest[len(rest) // 4 :])
    learner = WordsLearner(learn, False, SEED, "cpu", choose)
    epochs = fit(learner, folder / "choose", MOST_EPOCHS, PATIENCE, learner.measure, "mrr").best_epoch
    whole = WordsLearner(pairs.of(rest), False, SEED, "cpu")
    fit(whole, folder / "finish", epochs)
    r = float((ranks(whole.queries(test), test.images, test.images) <= 10).mean())
    print(epochs, r)
    return r


if __name__ == "__main__":
    main()
