"""All stages of the pipeline as they would have been at the beginning of a test, fitted on what came before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embed.behaviour import Split
from serve.core.settings import Settings
from serve.recommend.ranking.impressions import Shown
from serve.recommend.retrieval.candidates import Recommender
from serve.recommend.retrieval.retrievers import Source
from serve.training.scorer_validation import Fitted, Lookback, fit_scorer
from serve.training.tower_validation import Chosen, Material, Past, Progress, choose, finish


@dataclass(frozen=True)
class Stages:
    """What validation chose, the scorer (None where there was too little to learn from), and `present`, the sources and
    features at the moment that the test begins, of towers that know all before it."""

    chosen: Chosen
    fitted: Fitted | None
    present: Past
    items: int

    @property
    def sources(self) -> Mapping[str, Source]:
        return self.present.sources

    @property
    def recommender(self) -> Recommender:
        """All sources, blended."""
        return Recommender(self.sources, self.chosen.blend, self.items)


def fit_stages(
    material: Material, split: Split, shown: Shown, settings: Settings, folder: Path, progress: Progress | None = None
) -> Stages:
    """Fit towers, blend and scorer; `shown` are the lists of the validation time. Checkpoints go to `folder`."""
    chosen = choose(material, split, settings.towers, folder / "choose", progress)
    past = material.past(split.train, split.validation_from, chosen.towers, chosen.blend)
    time = Lookback(
        Recommender(past.sources, chosen.blend, len(material)),
        past.maker,
        split.before_test,
        split.validation,
        split.validation_from,
        shown,
        settings.scorer.cases,
    )
    fitted = fit_scorer(
        [time],
        settings.scorer,
        chosen.towers.fingerprint,
        folder / "scorer",
        progress=progress,
    )
    epochs = chosen.state.best_epoch
    towers = finish(material, split.before_test, settings.towers, epochs, folder / "finish", {}, progress)
    present = material.past(split.before_test, split.test_from, towers, chosen.blend)
    return Stages(chosen, fitted, present, len(material))
