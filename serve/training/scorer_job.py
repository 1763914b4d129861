"""The job that trains the scorer: events of the store -> scorer, resumable; the next build takes it into its release.

    STORE/scorer/
      current -> FINGERPRINT
      FINGERPRINT/          see serve.recommend.ranking.scorer
      training/             job.json, checkpoints while a job runs, and what TensorBoard shows of the last

It learns from the time that the towers were validated on, with the towers that know only the time before: what the
final towers say of events that they have seen would be too good to be true.
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embed.behaviour import collect, split_at
from embed.durable import point
from embed.encode_job import SpaceVectors
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.recommend.ranking.impressions import read_impressions
from serve.recommend.ranking.scorer import HeadMetrics, Scorer
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.score_blend import LinearScoreModel
from serve.release.release import Release
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog, with_impressions
from serve.training.scorer_validation import Progress, TrainingWindow, fit_scorer
from serve.training.towers_job import begin, chosen_towers, current_towers, training_data_of

TRAINING, LEARNING = "training", "learning"


@dataclass(frozen=True)
class ScorerReport:
    """What came of a job: from how much it learned, for how long, and how each head measures on held-out shoppers."""

    fingerprint: str
    rows: int
    cases: int
    epochs: int
    heads: Mapping[str, HeadMetrics]
    seconds: float


def current_scorer(store: Path) -> Scorer | None:
    """The scorer trained last, None before the first and where it is of another version's format.

    Raises Missing or Damaged where it cannot be used.
    """
    link = store / "scorer" / "current"
    if not link.is_symlink() or not Scorer.readable(folder := link.parent / os.readlink(link)):
        return None
    return Scorer.open(folder)


def train_scorer(
    settings: Settings, release: Release, spaces: Sequence[SpaceVectors], progress: Progress | None = None
) -> ScorerReport:
    """Train the scorer on the events since the towers' validation began, and make it the current one.

    `spaces` are the vectors of the release's catalogue. Raises BadRequest where there are no towers or too few events.
    """
    started = time.perf_counter()
    towers = current_towers(settings.store)
    if towers is None:
        raise BadRequest("the scorer needs towers: run vetrina train towers first", "store")
    chosen = chosen_towers(settings.store, towers.fingerprint)
    moment = float(towers.facts["validation_from"])
    folder = settings.store / "scorer" / TRAINING
    events = open_event_log(settings)
    try:
        told = {"towers": towers.fingerprint, **settings.scorer.model_dump()}
        answers = ImpressionLog(events.database)
        job = begin(folder, events.last(), release.name, told, answers.last())
        ids = release.catalogue.ids()
        interactions, _ = collect((batch for _, batch in events.batches(until=job.events_until)), ids, settings.signal)
        seen = with_impressions(events, answers, moment, job.events_until, job.impressions_until)
        shown = read_impressions(seen, ids, settings.signal, moment)
    finally:
        events.close()
    split = split_at(interactions, moment, float("inf"))
    with training_data_of(settings, release, spaces, folder, chosen.vocabulary) as training_data:
        score_model = LinearScoreModel.model_validate(towers.facts["blend"])
        past = training_data.past(split.train, moment, chosen, score_model)
        recommender = CandidateGenerator(past.retrievers, score_model, len(training_data))
        fitted = fit_scorer(
            [
                TrainingWindow(
                    recommender, past.maker, interactions, split.validation, moment, shown, settings.scorer.cases
                )
            ],
            settings.scorer,
            towers.fingerprint,
            folder / "fit",
            progress,
            job.events_until,
            float(np.nextafter(interactions.time.max(initial=0.0), np.inf)),
        )
    if fitted is None:
        (folder / "job.json").unlink()  # with more events the job is another one
        raise BadRequest(
            f"there is too little to train a scorer on: {len(split.validation)} shoppers liked anything new since the "
            "towers' validation began",
            "events",
        )
    keep(settings.store, fitted.scorer)
    for checkpoint in (folder / "fit").glob("*/checkpoint.safetensors"):
        checkpoint.unlink()
    (folder / "job.json").unlink()
    facts, name = fitted.scorer.facts, fitted.scorer.fingerprint
    return ScorerReport(
        name, facts.rows, facts.cases, facts.epochs, facts.heads, round(time.perf_counter() - started, 1)
    )


def keep(store: Path, scorer: Scorer) -> None:
    """Make a scorer the one that the next build takes, in place of the one before."""
    saved = scorer.save(store / "scorer")
    point(saved.parent / "current", saved.name)
    for other in saved.parent.iterdir():
        if other.is_dir() and not other.is_symlink() and other.name not in (saved.name, TRAINING, LEARNING):
            shutil.rmtree(other)
