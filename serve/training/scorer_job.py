"""Trains the scorer on the events of the store; resumable. The next build takes the scorer into its release.

    STORE/scorer/
      current -> FINGERPRINT
      FINGERPRINT/          see serve.recommend.ranking.scorer
      training/             job.json, checkpoints while a job runs, and the TensorBoard log of the last one

It learns from the time that the towers were validated on, with the towers that know only the time before: what the
final towers predict for events of their training would be too optimistic.
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embed.behaviour import collect_interactions, split_at
from embed.durable import replace_link
from embed.encode_job import SpaceVectors
from serve.core.errors import BadRequest
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.recommend.ranking.impressions import read_impressions
from serve.recommend.ranking.scorer import HeadMetrics, Scorer
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.release.release import Release
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog, events_with_impressions
from serve.training.scorer_validation import MIN_USERS, TrainingWindow, fit_scorer
from serve.training.towers_job import begin, current_towers, open_validation_towers, prepare_training_data

TRAINING, LEARNING = "training", "learning"


@dataclass(frozen=True)
class ScorerReport:
    """The result of a job: size of the training data, epochs, and metrics of each head on held-out users."""

    fingerprint: str
    rows: int
    cases: int
    epochs: int
    heads: Mapping[str, HeadMetrics]
    seconds: float


def current_scorer(store: Path) -> Scorer | None:
    """Open the scorer that was trained last; None before the first, or if it has the format of another version.

    Raises Missing or Damaged if it cannot be used.
    """
    link = store / "scorer" / "current"
    if not link.is_symlink() or not Scorer.is_readable(folder := link.parent / os.readlink(link)):
        return None
    return Scorer.open(folder)


def train_scorer(
    settings: Settings, release: Release, spaces: Sequence[SpaceVectors], progress: Progress | None = None
) -> ScorerReport:
    """Train the scorer on the events since the towers' validation began, and make it the current one.

    `spaces` are the vectors of the release's catalogue. Raises BadRequest without towers, or with too few events.
    """
    started = time.perf_counter()
    towers = current_towers(settings.store)
    if towers is None:
        raise BadRequest("the scorer needs towers: run vetrina train towers first", "store")
    chosen = open_validation_towers(settings.store, towers.fingerprint)
    moment = float(towers.facts["validation_from"])
    folder = settings.store / "scorer" / TRAINING
    events = open_event_log(settings)
    try:
        inputs = {"towers": towers.fingerprint, **settings.scorer.model_dump()}
        answers = ImpressionLog(events.database)
        job = begin(folder, events.last_sequence(), release.name, inputs, answers.last_sequence())
        ids = release.catalogue.ids()
        interactions, _ = collect_interactions(
            (batch for _, batch in events.batches(until=job.events_until)), ids, settings.signal
        )
        seen = events_with_impressions(events, answers, moment, job.events_until, job.impressions_until)
        shown = read_impressions(seen, ids, settings.signal, moment)
    finally:
        events.close()
    split = split_at(interactions, moment, float("inf"))
    with prepare_training_data(settings, release, spaces, folder, chosen.vocabulary) as training_data:
        score_model = LinearScoreModel.model_validate(towers.facts["blend"])
        past = training_data.point_in_time(split.train, moment, chosen, score_model)
        generator = CandidateGenerator(past.retrievers, score_model, len(training_data))
        fitted = fit_scorer(
            [
                TrainingWindow(
                    generator, past.builder, interactions, split.validation, moment, shown, settings.scorer.max_lists
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
        (folder / "job.json").unlink()  # with more events it is another job
        raise BadRequest(
            f"too few events to train a scorer: {len(split.validation)} users liked a new item since the towers' "
            f"validation began, {MIN_USERS} are needed",
            "events",
        )
    keep(settings.store, fitted.scorer)
    for checkpoint in (folder / "fit").glob("*/checkpoint.safetensors"):
        checkpoint.unlink()
    (folder / "job.json").unlink()
    facts, name = fitted.scorer.metadata, fitted.scorer.fingerprint
    return ScorerReport(
        name, facts.rows, facts.cases, facts.epochs, facts.heads, round(time.perf_counter() - started, 1)
    )


def keep(store: Path, scorer: Scorer) -> None:
    """Save a scorer as the current one, which the next build takes; deletes the previous one."""
    saved = scorer.save(store / "scorer")
    replace_link(saved.parent / "current", saved.name)
    for other in saved.parent.iterdir():
        if other.is_dir() and not other.is_symlink() and other.name not in (saved.name, TRAINING, LEARNING):
            shutil.rmtree(other)
