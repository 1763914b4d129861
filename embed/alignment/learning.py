"""Learning an alignment: products are split three ways, to learn from, to choose by, and to be measured with.

What the last part does not find surely better with an adapter goes without one. An adapter that helps is then learned
from all products, as long or as strongly as the second part chose.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embed.alignment import photos as of_photos
from embed.alignment.alignment import AlignmentMetadata, Measured
from embed.alignment.pairs import Pairs, Photos
from embed.alignment.photos import SHRINKAGES, adapted, adapter
from embed.alignment.words import WordsLearner, plain_ranks, ranks
from embed.training_loop import fit

MIN_PRODUCTS = 50  # with image and words, or with several photos; of fewer nothing can be measured
MAX_EPOCHS, PATIENCE = 30, 8
MAX_ASKED = 2_000
SURE = 1.645  # standard errors, one-sided 95 %
SEED = 0
Progress = Callable[[int, int], None]
Tensors = dict[str, NDArray[np.float32]]


def learn_words(
    pairs: Pairs, facts: AlignmentMetadata, folder: Path, device: str, progress: Progress | None
) -> Tensors:
    """Heads for words, empty where they do not help; how they measured goes into the facts."""
    parts = split_products(pairs.product)
    if parts is None:
        return {}
    learn, choose, test = (pairs.of(part) for part in parts)
    learner = WordsLearner(learn, facts.joint, SEED, device, choose)
    state = fit(learner, _empty(folder / "choose"), MAX_EPOCHS, PATIENCE, learner.measure, "mrr", progress)
    after = ranks(learner.queries(test), test.images, pairs.pictures)
    before = plain_ranks(test, facts.joint, pairs.pictures)
    facts.epochs = state.best_epoch
    facts.of_words = measured(before, after, 10)
    if not facts.of_words.better:
        return {}
    whole = WordsLearner(pairs, facts.joint, SEED, device)
    fit(whole, _empty(folder / "finish"), state.best_epoch, progress=progress)
    return whole.module.tensors()


def learn_photos(photos: Photos, facts: AlignmentMetadata) -> Tensors:
    """The adapter of photos, empty where it does not help; how it measured goes into the facts."""
    parts = split_products(photos.product)
    if parts is None:
        return {}
    learn = photos.of(parts[0])
    random = np.random.default_rng(SEED)
    choose, test = (random.permutation(np.flatnonzero(np.isin(photos.product, part)))[:MAX_ASKED] for part in parts[1:])

    def places(rows: NDArray[np.int64], tensors: Tensors | None) -> NDArray[np.int64]:
        queries = photos.images[rows]
        return of_photos.ranks(queries if tensors is None else adapted(queries, tensors), rows, photos)

    gains = {shrinkage: (1 / places(choose, adapter(learn, shrinkage))).mean() for shrinkage in SHRINKAGES}
    facts.shrinkage = max(SHRINKAGES, key=lambda shrinkage: gains[shrinkage])
    facts.of_photos = measured(places(test, None), places(test, adapter(learn, facts.shrinkage)), 1)
    return adapter(photos, facts.shrinkage) if facts.of_photos.better else {}


def split_products(product: NDArray[np.int64]) -> list[NDArray[np.int64]] | None:
    """Products to learn from (three in five), to choose by and to measure with; None where there are too few."""
    products = np.random.default_rng(SEED).permutation(np.unique(product))
    if len(products) < MIN_PRODUCTS:
        return None
    return np.split(products, [3 * len(products) // 5, 4 * len(products) // 5])


def measured(before: NDArray[np.int64], after: NDArray[np.int64], k: int) -> Measured:
    """How the places [n] of what is right compare, before and after."""
    gained = 1 / after - 1 / before
    better = gained.mean() > SURE * gained.std() / len(gained) ** 0.5
    share = [round(float((places <= k).mean()), 4) for places in (before, after)]
    return Measured(queries=len(gained), before=share[0], after=share[1], better=bool(better))


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder
