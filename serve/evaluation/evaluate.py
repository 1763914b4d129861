"""`vetrina evaluate`: the real pipeline on held-out time, beside its parts and plain baselines.

The last tenth of all liked interactions is the test, the tenth before it validation (embed.behaviour.splits). Towers
and blend are chosen on validation, trained anew on all before the test, and asked once for each test shopper. What a
shopper had is left out, all other items are ranked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Holdout, Interactions, Split
from embed.towers.settings import TowerSettings
from serve.evaluation.baselines import BASELINES, rank_baseline
from serve.evaluation.measures import DEEP, Measured, measure
from serve.recommend.blend import Blend
from serve.recommend.fitting import Material, Progress, choose, finish
from serve.recommend.recommender import Recommender
from serve.recommend.shopper import Shopper

FUSED = "fused"
HEAVY = 0.9  # quantile of history lengths from which a shopper is a heavy one


@dataclass(frozen=True)
class Evaluation:
    """Measures by system: each source alone, all fused, the baselines; and of slices of the test, if any is in them.

    `chosen` are the settings that validation chose.
    """

    split: Mapping[str, int | float]
    seed: int
    systems: Mapping[str, Measured]
    baselines: Sequence[str]
    slices: Mapping[str, Mapping[str, Measured]]
    chosen: Mapping[str, Any]


def evaluate(
    material: Material,
    split: Split,
    settings: TowerSettings,
    folder: Path,
    progress: Progress | None = None,
) -> Evaluation:
    """Fit on what came before the test, and measure on it; checkpoints go to `folder`."""
    chosen = choose(material, split, settings, folder / "choose", progress)
    epochs = chosen.state.best_epoch
    towers = finish(material, split.before_test, settings, epochs, folder / "finish", {}, progress)
    sources = material.sources(split.before_test, split.test_from, towers)
    rankers: dict[str, Callable[[], NDArray[np.int64]]] = {}
    for name, source in sources.items():
        alone = Recommender({name: source}, Blend(weights={name: 1.0}), len(material))
        rankers[name] = lambda alone=alone, name=name: rank_all(alone, split.test, name, progress)  # type: ignore[misc]
    together = Recommender(sources, chosen.blend, len(material))
    rankers[FUSED] = lambda: rank_all(together, split.test, FUSED, progress)
    told: dict[str, Any] = {"epochs": epochs, "blend": chosen.blend.model_dump()}
    ranked = {name: rank() for name, rank in rankers.items()}
    baselines = {name if name not in ranked else f"{name} (all time)": name for name in BASELINES}
    for place, (label, name) in enumerate(baselines.items(), start=1):
        ranked[label], told[label] = rank_baseline(name, split, DEEP, settings.seed)
        if progress:
            progress("baselines", place, len(baselines), "baselines")

    before = split.before_test
    shoppers_of = _shoppers_of(before)
    shoppers = int((np.diff(before.starts) > 0).sum())

    def measured(of: NDArray[np.int64], holdout: Holdout) -> Measured:
        return measure(of, holdout, shoppers_of, shoppers, settings.seed)

    slices = {
        name: {system: measured(of[rows], part) for system, of in ranked.items()}
        for name, (rows, part) in _slices(split.test, shoppers_of).items()
        if len(part)
    }
    systems = {system: measured(of, split.test) for system, of in ranked.items()}
    return Evaluation(split.report, settings.seed, systems, list(baselines), slices, told)


def rank_all(
    recommender: Recommender, holdout: Holdout, name: str, progress: Progress | None = None
) -> NDArray[np.int64]:
    """The DEEP best items for each of m shoppers [m, DEEP], without what they had."""
    ranked = np.full((len(holdout), DEEP), -1, np.int64)
    for user in range(len(holdout)):
        shopper = Shopper.of(holdout.history, user)
        found = recommender.recommend(shopper, DEEP, np.unique(shopper.item)).items
        ranked[user, : len(found)] = found
        if progress:
            progress(f"ask {name}", user + 1, len(holdout), "shoppers")
    return ranked


def _slices(test: Holdout, shoppers_of: NDArray[np.int64]) -> dict[str, tuple[NDArray[np.int64], Holdout]]:
    """Shoppers and what to find of each: targets that nobody had before; shoppers without history; heavy shoppers."""
    lengths = np.diff(test.history.starts)
    heavy = np.flatnonzero(lengths >= max(1, np.quantile(lengths, HEAVY))) if len(lengths) else np.empty(0, np.int64)
    cold = np.flatnonzero(lengths == 0)
    return {
        "cold items": only_targets(test, shoppers_of[test.targets] == 0),
        "cold shoppers": (cold, test.of(cold)),
        "heavy shoppers": (heavy, test.of(heavy)),
    }


def only_targets(holdout: Holdout, wanted: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Holdout]:
    """The shoppers that have any of the wanted targets, and only these as targets."""
    counts = np.concatenate([[0], np.cumsum(wanted)])[holdout.starts]
    users = np.flatnonzero(np.diff(counts) > 0)
    starts = np.concatenate([[0], np.cumsum(np.diff(counts)[users])])
    return users, Holdout(holdout.history.of(users), starts, holdout.targets[wanted])


def _shoppers_of(interactions: Interactions) -> NDArray[np.int64]:
    """How many shoppers had each item, [items]."""
    pairs = np.unique(interactions.user * max(1, interactions.items) + interactions.item)
    return np.bincount(pairs % max(1, interactions.items), minlength=interactions.items)
