"""All stages of the pipeline as they would have been at the beginning of a test, fitted on what came before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embed.behaviour import Split
from serve.core.settings import Settings
from serve.recommend.ranking.impressions import ImpressionTable
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.retrievers import Retriever
from serve.training.scorer_validation import FittedScorer, TrainingWindow, fit_scorer
from serve.training.tower_validation import PointInTimeFeatures, Progress, TrainingData, ValidatedTowers, choose, finish


@dataclass(frozen=True)
class FittedPipeline:
    """What validation chose, the scorer (None where there was too little to learn from), and `present`, the sources and
    features at the moment that the test begins, of towers that know all before it."""

    chosen: ValidatedTowers
    fitted: FittedScorer | None
    present: PointInTimeFeatures
    items: int

    @property
    def retrievers(self) -> Mapping[str, Retriever]:
        return self.present.retrievers

    @property
    def recommender(self) -> CandidateGenerator:
        """All sources, blended."""
        return CandidateGenerator(self.retrievers, self.chosen.score_model, self.items)


def fit_stages(
    training_data: TrainingData,
    split: Split,
    shown: ImpressionTable,
    settings: Settings,
    folder: Path,
    progress: Progress | None = None,
) -> FittedPipeline:
    """Fit towers, blend and scorer; `shown` are the lists of the validation time. Checkpoints go to `folder`."""
    chosen = choose(training_data, split, settings.towers, folder / "choose", progress)
    past = training_data.past(split.train, split.validation_from, chosen.towers, chosen.score_model)
    time = TrainingWindow(
        CandidateGenerator(past.retrievers, chosen.score_model, len(training_data)),
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
    towers = finish(training_data, split.before_test, settings.towers, epochs, folder / "finish", {}, progress)
    present = training_data.past(split.before_test, split.test_from, towers, chosen.score_model)
    return FittedPipeline(chosen, fitted, present, len(training_data))
