"""Calibration of the predicted probabilities, on the demo shop's lists of the last tenth of its time.

Towers, score model and scorer are fitted on the time before, as `vetrina evaluate` does. Lists that were shown in the
test time are then scored with the data of that moment, and the probabilities are compared with the clicks, carts and
purchases that followed.
"""

import tempfile
from pathlib import Path

import numpy as np
from cold_start import demo_store
from report import report
from rich.console import Console
from rich.table import Table

from embed.behaviour import collect_interactions, split_by_time
from serve.cli import bars
from serve.core.ranking_settings import HEADS
from serve.evaluation.pipeline_fit import fit_pipeline
from serve.jobs.train import open_release_and_spaces
from serve.recommend.ranking.impressions import HORIZON, read_impressions
from serve.storage.event_log import open_event_log
from serve.training.ranking_examples import LabelledListBuilder
from serve.training.scorer_validation import auc, calibration_error, log_loss, reliability
from serve.training.towers_job import prepare_training_data

SEED = 0
LISTS = 3000


def main() -> None:
    with tempfile.TemporaryDirectory() as name, bars(quiet=False) as progress:
        folder = Path(name)
        settings = demo_store(folder, progress)
        release, spaces = open_release_and_spaces(settings, progress)
        store, ids = open_event_log(settings), release.catalogue.ids()
        interactions, _ = collect_interactions((batch for _, batch in store.batches()), ids, settings.signal)
        split = split_by_time(interactions)
        moments = split.validation_from, split.test_from - HORIZON
        before = read_impressions((batch for _, batch in store.batches()), ids, settings.signal, *moments)
        after = read_impressions((batch for _, batch in store.batches()), ids, settings.signal, split.test_from)
        store.close()
        with prepare_training_data(settings, release, spaces, folder / "work") as training_data:
            pipeline = fit_pipeline(training_data, split, before, settings, folder / "fit", progress)
            fitted = pipeline.scorer
            assert fitted is not None
            builder = LabelledListBuilder(
                pipeline.candidate_generator, pipeline.present.builder, interactions, settings.scorer
            )
            lists = np.sort(np.random.default_rng(SEED).choice(len(after), min(LISTS, len(after)), replace=False))
            truth: dict[str, list[np.ndarray]] = {head: [] for head in fitted.scorer.metadata.heads}
            predicted: dict[str, list[np.ndarray]] = {head: [] for head in fitted.scorer.metadata.heads}
            for done, case in enumerate(builder.shown(after, lists), start=1):
                scores = fitted.scorer.score(case.features, {})
                for head, probabilities in scores.heads.items():
                    truth[head].append(case.labels[case.shown, HEADS.index(head)])
                    predicted[head].append(probabilities[case.shown])
                progress("score shown lists", done, len(lists), "lists") if progress else None
    table = Table("head", "shown", "rate", "AUC", "log loss", "log loss of the base rate", "ECE")
    figures: dict[str, float | int | str | None] = {"lists": len(lists)}
    for head, outcomes in truth.items():
        happened, probability = np.concatenate(outcomes), np.concatenate(predicted[head])
        rate, ece = float(happened.mean()), calibration_error(happened, probability)
        figures |= {f"{head}_ece": round(ece, 4), f"{head}_auc": round(auc(happened, probability), 4)}
        base = log_loss(happened, np.full(len(happened), rate))
        row = (rate, auc(happened, probability), log_loss(happened, probability), base, ece)
        table.add_row(head, f"{len(happened):,}", *(f"{value:.4f}" for value in row))
        bins = [(round(of, 4), round(was, 4)) for of, was, _ in reliability(happened, probability, 10)]
        figures[f"{head}_reliability"] = str(bins)
    Console().print(table)
    report("calibration", figures, SEED, ("torch", "onnxruntime"))


if __name__ == "__main__":
    main()
