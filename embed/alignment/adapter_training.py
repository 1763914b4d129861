"""Trains the adapters of an alignment. Products are split into parts for training, validation and test.

An adapter is used only if it is significantly better on the test part. It is then trained again on all products, with
the number of epochs or the shrinkage that was best on the validation part.
"""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embed.alignment.alignment import AdapterEvaluation, AlignmentMetadata
from embed.alignment.pairs import ProductPhotos, TextImagePairs
from embed.alignment.photo_adapter import SHRINKAGES, apply_photo_adapter, fit_photo_adapter, photo_ranks
from embed.alignment.text_adapter import TextAdapterLearner, baseline_ranks, image_ranks
from embed.progress import Progress
from embed.training_loop import fit

MIN_PRODUCTS = 50  # with image and text, or with several photos; fewer are too few to measure
MAX_EPOCHS, PATIENCE = 30, 8
MAX_QUERIES = 2_000
MIN_Z = 1.645  # standard errors: one-sided, 95 %
SEED = 0
Tensors = dict[str, NDArray[np.float32]]


def train_text_adapter(
    pairs: TextImagePairs, metadata: AlignmentMetadata, folder: Path, device: str, progress: Progress | None
) -> Tensors:
    """Train the adapter of texts.

    Args:
        pairs: What to train on.
        metadata: Receives the evaluation.
        folder: Where checkpoints are written.
        device: The device of torch.
        progress: Called with steps done and steps in total.

    Returns:
        The tensors of the adapter, empty if it does not help.
    """
    parts = split_products(pairs.product)
    if parts is None:
        return {}
    training, validation, test = (pairs.select(part) for part in parts)
    learner = TextAdapterLearner(training, metadata.joint, SEED, device, validation)
    state = fit(learner, _clear(folder / "choose"), MAX_EPOCHS, PATIENCE, learner.measure, "mrr", progress)
    after = image_ranks(learner.queries(test), test.images, pairs.distinct_images)
    before = baseline_ranks(test, metadata.joint, pairs.distinct_images)
    metadata.epochs = state.best_epoch
    metadata.of_words = compare_ranks(before, after, 10)
    if not metadata.of_words.better:
        return {}
    final = TextAdapterLearner(pairs, metadata.joint, SEED, device)
    fit(final, _clear(folder / "finish"), state.best_epoch, progress=progress)
    return final.module.tensors()


def train_photo_adapter(photos: ProductPhotos, metadata: AlignmentMetadata) -> Tensors:
    """Train the adapter of photos; the evaluation goes into `metadata`. Returns no tensors if it does not help."""
    parts = split_products(photos.product)
    if parts is None:
        return {}
    training = photos.select(parts[0])
    random = np.random.default_rng(SEED)
    validation, test = (
        random.permutation(np.flatnonzero(np.isin(photos.product, part)))[:MAX_QUERIES] for part in parts[1:]
    )

    def ranks(rows: NDArray[np.int64], tensors: Tensors | None) -> NDArray[np.int64]:
        queries = photos.images[rows]
        return photo_ranks(queries if tensors is None else apply_photo_adapter(queries, tensors), rows, photos)

    gains = {
        shrinkage: (1 / ranks(validation, fit_photo_adapter(training, shrinkage))).mean() for shrinkage in SHRINKAGES
    }
    metadata.shrinkage = max(SHRINKAGES, key=lambda shrinkage: gains[shrinkage])
    metadata.of_photos = compare_ranks(
        ranks(test, None), ranks(test, fit_photo_adapter(training, metadata.shrinkage)), 1
    )
    return fit_photo_adapter(photos, metadata.shrinkage) if metadata.of_photos.better else {}


def split_products(product: NDArray[np.int64]) -> list[NDArray[np.int64]] | None:
    """Split products into training (three in five), validation and test; None if there are too few."""
    products = np.random.default_rng(SEED).permutation(np.unique(product))
    if len(products) < MIN_PRODUCTS:
        return None
    return np.split(products, [3 * len(products) // 5, 4 * len(products) // 5])


def compare_ranks(before: NDArray[np.int64], after: NDArray[np.int64], k: int) -> AdapterEvaluation:
    """Compare the ranks [n] of the right images without and with an adapter; `k` is the cut-off of recall."""
    gained = 1 / after - 1 / before
    better = gained.mean() > MIN_Z * gained.std() / len(gained) ** 0.5
    recall = [round(float((ranks <= k).mean()), 4) for ranks in (before, after)]
    return AdapterEvaluation(queries=len(gained), before=recall[0], after=recall[1], better=bool(better))


def _clear(folder: Path) -> Path:
    """Delete a folder and return its path."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder
