"""Continues the training of the scorer with new events: `vetrina learn`.

Training starts from the weights of the active scorer. It learns from the events after that scorer's training, with the
counts as of their beginning and the active towers; against forgetting, it replays as many lists and users of older
times. The last fifth of the new events is not learned from: on it both scorers are compared, in the active release (see
serve.evaluation.release_gate). The next training learns from that fifth.

    STORE/scorer/learning/    job.json, checkpoints while the job runs, and the TensorBoard log of the last job
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from embed.behaviour import Interactions, collect_interactions, split_at
from embed.encode_job import SpaceVectors
from embed.towers.two_tower_model import TrainedTowers
from serve.core.errors import BadRequest
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.evaluation.release_gate import compare_releases
from serve.recommend.ranking.impressions import ImpressionTable, read_impressions
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.release.manifest import Check
from serve.release.release import Release
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog, events_with_impressions
from serve.training.scorer_job import LEARNING, keep
from serve.training.scorer_validation import MIN_USERS, TrainingWindow, fit_scorer
from serve.training.tower_validation import TrainingData
from serve.training.towers_job import begin, open_validation_towers, prepare_training_data

COMPARED = 0.2  # share of the new events on which both scorers are compared


@dataclass(frozen=True)
class LearnReport:
    """The result of a training. `fingerprint` is the new scorer's, empty where there was too little to learn from.

    `users` liked new items since the last training; `checks` compare the new scorer with the old one, and `accepted` is
    whether it replaces that.
    """

    fingerprint: str
    users: int
    rows: int
    epochs: int
    checks: Sequence[Check]
    accepted: bool
    seconds: float


def learn(
    settings: Settings, release: Release, spaces: Sequence[SpaceVectors], progress: Progress | None = None
) -> LearnReport:
    """Continue the training of the active release's scorer; the next build uses the result unless it measures worse.

    Args:
        settings: Settings.
        release: The active release.
        spaces: Vectors of its catalogue.
        progress: Called as stages go on.

    Returns:
        How the new scorer measures.

    Raises:
        BadRequest: The release has no scorer.
    """
    started = time.perf_counter()
    base, towers = release.behaviour.scorer, release.behaviour.towers
    if base is None or towers is None:
        raise BadRequest("the active release has no scorer: run vetrina train scorer, then vetrina build", "store")
    folder = settings.store / "scorer" / LEARNING
    events = open_event_log(settings)
    try:
        impression_log = ImpressionLog(events.database)
        job_settings = {"scorer": base.fingerprint, **settings.scorer.model_dump()}
        job = begin(folder, events.last_sequence(), release.name, job_settings, impression_log.last_sequence())
        ids, signal = release.catalogue.ids(), settings.signal
        all_interactions, _ = collect_interactions(
            (batch for _, batch in events.batches(until=job.events_until)), ids, signal
        )
        history_until = base.metadata.learned_until
        until = _comparison_start(all_interactions, history_until)
        interactions = all_interactions.where(all_interactions.time < until)
        fresh = split_at(interactions, history_until, np.inf)
        if len(fresh.validation) < MIN_USERS:
            (folder / "job.json").unlink()  # with more events it is another job
            return _empty_report(len(fresh.validation), started)
        validated_from = float(towers.facts["validation_from"])
        events_before = list(
            _filter_before(
                events_with_impressions(
                    events, impression_log, validated_from, job.events_until, job.impressions_until
                ),
                until,
            )
        )
        impressions = [
            read_impressions(events_before, ids, signal, *bounds)
            for bounds in ((history_until,), (validated_from, history_until))
        ]
    finally:
        events.close()
    chosen = open_validation_towers(settings.store, towers.fingerprint)
    with prepare_training_data(settings, release, spaces, folder, towers.vocabulary) as training_data:
        score_model = release.behaviour.metadata.score_model
        max_lists = min(settings.scorer.max_lists, max(len(fresh.validation), len(impressions[0])))
        windows = [
            _training_window(
                training_data,
                interactions,
                history_until,
                towers,
                score_model,
                impressions[0],
                settings.scorer.max_lists,
            ),
            _training_window(
                training_data, fresh.train, validated_from, chosen, score_model, impressions[1], max_lists, replay=True
            ),
        ]
        fitted = fit_scorer(
            windows,
            settings.scorer,
            towers.fingerprint,
            folder / "fit",
            progress,
            events_until=job.events_until,
            learned_until=until,
            start=base,
        )
    assert fitted is not None  # there are enough users  # noqa: S101
    checks = compare_releases(settings, release.with_scorer(fitted.scorer), release, progress)
    better = not any(check.worse for check in checks)
    if better:
        keep(settings.store, fitted.scorer)
    for checkpoint in (folder / "fit").glob("*/checkpoint.safetensors"):
        checkpoint.unlink()
    (folder / "job.json").unlink()
    facts = fitted.scorer.metadata
    seconds = round(time.perf_counter() - started, 1)
    users = len(fresh.validation)
    return LearnReport(fitted.scorer.fingerprint, users, facts.rows, facts.epochs, checks, better, seconds)


def _empty_report(users: int, started: float) -> LearnReport:
    return LearnReport("", users, 0, 0, (), False, round(time.perf_counter() - started, 1))


def _comparison_start(interactions: Interactions, since: float) -> float:
    """Return the time from which events are for the comparison."""
    liked = np.sort(interactions.time[(interactions.weight > 0) & (interactions.time >= since)])
    return float(liked[int(len(liked) * (1 - COMPARED))]) if len(liked) else since


def _filter_before(batches: Iterator[Any], moment: float) -> Iterator[Any]:
    """Yield the events before a time: later events that follow an earlier list are for the comparison too."""
    for batch in batches:
        yield batch.filter(pc.less(batch.column("timestamp"), moment))


def _training_window(
    training_data: TrainingData,
    interactions: Interactions,
    moment: float,
    towers: TrainedTowers,
    score_model: LinearScoreModel,
    impressions: ImpressionTable,
    max_lists: int,
    replay: bool = False,
) -> TrainingWindow:
    split = split_at(interactions, moment, np.inf)
    point_in_time = training_data.point_in_time(split.train, moment, towers, score_model)
    generator = CandidateGenerator(point_in_time.retrievers, score_model, len(training_data))
    return TrainingWindow(
        generator, point_in_time.builder, interactions, split.validation, moment, impressions, max_lists, replay
    )
