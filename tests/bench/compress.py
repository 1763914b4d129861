"""Smaller vectors: the loss of recall and ranking quality with fewer dimensions and fewer bits a number.

Each variant keeps a number of directions (the first principal components of the rows) and stores numbers in a format.
Bytes are those of one vector. Recall is the share of the ten nearest rows by whole vectors that are found, with exact
search on both sides. Quality is measured as in the benchmarks of the same names: siblings in the first ten by image on
Magento Luma, products of phone photos in the first position on Grocery. notebooks/spaces.ipynb plots the results.
"""

import os
from pathlib import Path

import numpy as np
from grocery import read
from report import report
from rich.console import Console
from rich.progress import track

from embed.encoders import choose_device, load_image_encoder
from embed.images import ImageSource, decode_pixels
from index.faiss_files import principal_axes

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data"))
DIMS = (1280, 512, 256, 128, 64, 32)
STORED = {"float32": 4, "float16": 2, "int8": 1}


def main() -> None:
    encoder = load_image_encoder("bundled", choose_device())

    def encode(folder: Path, references: list[str], label: str) -> np.ndarray:
        source = ImageSource(folder)
        pixels = [
            encoder.prepare(decode_pixels(source.read(one), shrink_to=encoder.shrink_to))
            for one in track(references, label, console=Console(stderr=True))
        ]
        return encoder.encode_images(pixels)

    luma_items = luma_catalogue()
    luma = encode(DATA / "magento-luma", [image for image, _ in luma_items], "luma")
    parents = np.array([parent for _, parent in luma_items])
    products, photos = read("catalog.csv"), read("photos.csv")
    photos = [photo for photo in photos if (DATA / "grocery-store" / photo["photo"]).exists()]
    rows = [(product["image"], product["item_id"]) for product in products]
    rows += [(photo["photo"], photo["item_id"]) for photo in photos if photo["split"] == "train"]
    test = [(photo["photo"], photo["item_id"]) for photo in photos if photo["split"] == "test"]
    grocery = encode(DATA / "grocery-store", [image for image, _ in rows], "grocery")
    queries = encode(DATA / "grocery-store", [image for image, _ in test], "grocery photos")
    owners, truth = np.array([item for _, item in rows]), np.array([item for _, item in test])

    figures: dict[str, float | int | str | None] = {}
    for dim in DIMS:
        for stored, size in STORED.items():
            name = f"{dim}_{stored}"
            small = store(narrow(luma, luma, dim), stored)
            seen = small @ small.T
            np.fill_diagonal(seen, -np.inf)
            found = np.argsort(-seen, axis=1, kind="stable")[:, :10]
            held = [np.isin(parents[found[row]], parents[row]).any() for row in several(parents)]
            kept, sought = store(narrow(grocery, grocery, dim), stored), store(narrow(queries, grocery, dim), stored)
            first = owners[(sought @ kept.T).argmax(1)]
            figures |= {
                f"{name}_bytes": dim * size,
                f"{name}_luma_recall10": overlap(luma, luma, small, small, own=True),
                f"{name}_luma_sibling10": round(float(np.mean(held)), 4),
                f"{name}_grocery_recall10": overlap(queries, grocery, sought, kept),
                f"{name}_grocery_r1": round(float((first == truth).mean()), 4),
            }
    report("compress", figures, seed=0, packages=("numpy", "openvino"))


def luma_catalogue() -> list[tuple[str, str]]:
    """Return the image and the parent product of each item with an image."""
    import csv

    with (DATA / "magento-luma" / "catalog.csv").open(newline="") as file:
        return [(row["image"], row["parent_sku"]) for row in csv.DictReader(file) if row["image"]]


def several(parents: np.ndarray) -> np.ndarray:
    """Return the items of products that have several items."""
    names, counts = np.unique(parents, return_counts=True)
    return np.flatnonzero(np.isin(parents, names[counts > 1]))


def narrow(vectors: np.ndarray, of: np.ndarray, dim: int) -> np.ndarray:
    """Project vectors onto the first `dim` principal components of `of`, with unit length."""
    if dim >= vectors.shape[1]:
        return vectors
    moved = vectors @ principal_axes(of)[0][:, :dim]
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def store(vectors: np.ndarray, stored: str) -> np.ndarray:
    """Return vectors as they are read back from a format; int8 is scaled by the largest absolute value."""
    if stored == "float16":
        return vectors.astype(np.float16).astype(np.float32)
    if stored == "int8":
        step = np.abs(vectors).max() / 127
        return np.round(vectors / step).astype(np.int8).astype(np.float32) * step
    return vectors


def overlap(
    queries: np.ndarray, rows: np.ndarray, small_q: np.ndarray, small_rows: np.ndarray, own: bool = False
) -> float:
    """Return the share of the ten best rows by small vectors that are among the ten best by whole vectors."""
    whole, small = queries @ rows.T, small_q @ small_rows.T
    if own:
        np.fill_diagonal(whole, -np.inf)
        np.fill_diagonal(small, -np.inf)
    least = np.sort(whole, axis=1)[:, -10]
    found = np.argsort(-small, axis=1)[:, :10]
    right = np.take_along_axis(whole, found, 1) >= least[:, None] - 1e-6
    return round(float(right.mean()), 4)


if __name__ == "__main__":
    main()
