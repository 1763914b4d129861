"""Fits the whole pipeline on the interactions before a test, as it would have been when the test begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embed.behaviour import Split
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.recommend.ranking.impressions import ImpressionTable
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.retriever import Retriever
from serve.training.scorer_validation import FittedScorer, TrainingWindow, fit_scorer
from serve.training.tower_validation import PointInTimeFeatures, TrainingData, ValidatedTowers, choose, finish


@dataclass(frozen=True)
class FittedPipeline:
    """A pipeline at the moment that the test begins.

    Attributes:
        chosen: the towers, and the settings that validation chose.
        scorer: the scorer; None where there was too little to train on.
        present: the retrievers and features at that moment, with towers trained on everything before it.
        items: how many items the catalogue has.
    """

    chosen: ValidatedTowers
    scorer: FittedScorer | None
    present: PointInTimeFeatures
    items: int

    @property
    def retrievers(self) -> Mapping[str, Retriever]:
        """The retrievers when the test begins."""
        return self.present.retrievers

    @property
    def candidate_generator(self) -> CandidateGenerator:
        """Generates candidates by all retrievers, with the linear score model."""
        return CandidateGenerator(self.retrievers, self.chosen.score_model, self.items)


def fit_pipeline(
    training_data: TrainingData,
    split: Split,
    impressions: ImpressionTable,
    settings: Settings,
    folder: Path,
    progress: Progress | None = None,
) -> FittedPipeline:
    """Fit towers, linear score model and scorer.

    Args:
        training_data: the items, their features and retrievers.
        split: the interactions of training, validation and test.
        impressions: the lists shown in the validation period.
        settings: the settings of towers and scorer.
        folder: where checkpoints are written.
        progress: called with the progress of each stage.
    """
    chosen = choose(training_data, split, settings.towers, folder / "choose", progress)
    before_validation = training_data.point_in_time(
        split.train, split.validation_from, chosen.towers, chosen.score_model
    )
    window = TrainingWindow(
        CandidateGenerator(before_validation.retrievers, chosen.score_model, len(training_data)),
        before_validation.builder,
        split.before_test,
        split.validation,
        split.validation_from,
        impressions,
        settings.scorer.max_lists,
    )
    scorer = fit_scorer(
        [window],
        settings.scorer,
        chosen.towers.fingerprint,
        folder / "scorer",
        progress=progress,
    )
    epochs = chosen.state.best_epoch
    towers = finish(training_data, split.before_test, settings.towers, epochs, folder / "finish", {}, progress)
    present = training_data.point_in_time(split.before_test, split.test_from, towers, chosen.score_model)
    return FittedPipeline(chosen, scorer, present, len(training_data))
