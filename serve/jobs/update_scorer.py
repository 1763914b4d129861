"""`vetrina learn`: the scorer goes on learning from what came since it was trained, and is kept if it is no worse.

It begins with the weights of the scorer that answers. The new time, from where that one has learned until a while ago,
is looked back on with the counts of its beginning and the towers that answer; as many lists and shoppers of older times
are looked at again beside it, against forgetting. The last fifth of what is new is not learned from: on it both
scorers are asked, in the release that answers (serve.evaluation.release_gate). What it has is learned the next time.

    STORE/scorer/learning/    job.json, checkpoints while the job runs, and what TensorBoard shows of the last
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc

from embed.behaviour import Interactions, collect, split_at
from embed.encode_job import SpaceVectors
from embed.towers.two_tower_model import TrainedTowers
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.evaluation.release_gate import compare
from serve.recommend.ranking.impressions import ImpressionTable, read_impressions
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.score_blend import LinearScoreModel
from serve.release.manifest import Check
from serve.release.release import Release
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog, with_impressions
from serve.training.scorer_job import LEARNING, keep
from serve.training.scorer_validation import MIN_SHOPPERS, Progress, TrainingWindow, fit_scorer
from serve.training.tower_validation import TrainingData
from serve.training.towers_job import begin, chosen_towers, training_data_of

COMPARED = 0.2  # of what is new, by which old and new are compared


@dataclass(frozen=True)
class LearnReport:
    """What came of it. `fingerprint` is that of the new scorer, empty where there was too little to learn from.

    `users` liked something new since the last time; `checks` are how the new scorer measures beside the old one, and
    `kept` says whether it took its place.
    """

    fingerprint: str
    users: int
    rows: int
    epochs: int
    checks: Sequence[Check]
    kept: bool
    seconds: float


def learn(
    settings: Settings, release: Release, spaces: Sequence[SpaceVectors], progress: Progress | None = None
) -> LearnReport:
    """Let the scorer of the current release go on learning, and make it the next build's if it measures no worse.

    `spaces` are the vectors of the release's catalogue. Raises BadRequest where the release has no scorer.
    """
    started = time.perf_counter()
    base, towers = release.behaviour.scorer, release.behaviour.towers
    if base is None or towers is None:
        raise BadRequest("there is no scorer to go on from: run vetrina train scorer, then vetrina build", "store")
    folder = settings.store / "scorer" / LEARNING
    events = open_event_log(settings)
    try:
        answers = ImpressionLog(events.database)
        told = {"scorer": base.fingerprint, **settings.scorer.model_dump()}
        job = begin(folder, events.last(), release.name, told, answers.last())
        ids, signal = release.catalogue.ids(), settings.signal
        whole, _ = collect((batch for _, batch in events.batches(until=job.events_until)), ids, signal)
        history_until = base.facts.learned_until
        until = _compared_from(whole, history_until)
        interactions = whole.where(whole.time < until)
        fresh = split_at(interactions, history_until, np.inf)
        if len(fresh.validation) < MIN_SHOPPERS:
            (folder / "job.json").unlink()  # with more events the job is another one
            return _nothing(len(fresh.validation), started)
        validated_from = float(towers.facts["validation_from"])
        seen = list(
            _before(with_impressions(events, answers, validated_from, job.events_until, job.impressions_until), until)
        )
        shown = [
            read_impressions(seen, ids, signal, *bounds)
            for bounds in ((history_until,), (validated_from, history_until))
        ]
    finally:
        events.close()
    chosen = chosen_towers(settings.store, towers.fingerprint)
    with training_data_of(settings, release, spaces, folder, towers.vocabulary) as training_data:
        score_model = release.behaviour.facts.score_model
        most = min(settings.scorer.cases, max(len(fresh.validation), len(shown[0])))
        times = [
            _lookback(training_data, interactions, history_until, towers, score_model, shown[0], settings.scorer.cases),
            _lookback(training_data, fresh.train, validated_from, chosen, score_model, shown[1], most, replay=True),
        ]
        fitted = fit_scorer(
            times,
            settings.scorer,
            towers.fingerprint,
            folder / "fit",
            progress,
            events_until=job.events_until,
            learned_until=until,
            start=base,
        )
    assert fitted is not None  # there are enough shoppers  # noqa: S101
    checks = compare(settings, release.with_scorer(fitted.scorer), release, progress)
    better = not any(check.worse for check in checks)
    if better:
        keep(settings.store, fitted.scorer)
    for checkpoint in (folder / "fit").glob("*/checkpoint.safetensors"):
        checkpoint.unlink()
    (folder / "job.json").unlink()
    facts = fitted.scorer.facts
    took = round(time.perf_counter() - started, 1)
    users = len(fresh.validation)
    return LearnReport(fitted.scorer.fingerprint, users, facts.rows, facts.epochs, checks, better, took)


def _nothing(users: int, started: float) -> LearnReport:
    return LearnReport("", users, 0, 0, (), False, round(time.perf_counter() - started, 1))


def _compared_from(interactions: Interactions, since: float) -> float:
    """The moment from which what is liked is for comparing."""
    liked = np.sort(interactions.time[(interactions.weight > 0) & (interactions.time >= since)])
    return float(liked[int(len(liked) * (1 - COMPARED))]) if len(liked) else since


def _before(batches: Iterator[Any], moment: float) -> Iterator[Any]:
    """What happened before a moment: also what came of a list after it is for comparing."""
    for batch in batches:
        yield batch.filter(pc.less(batch.column("timestamp"), moment))


def _lookback(
    training_data: TrainingData,
    interactions: Interactions,
    moment: float,
    towers: TrainedTowers,
    score_model: LinearScoreModel,
    shown: ImpressionTable,
    most: int,
    replay: bool = False,
) -> TrainingWindow:
    split = split_at(interactions, moment, np.inf)
    past = training_data.past(split.train, moment, towers, score_model)
    recommender = CandidateGenerator(past.retrievers, score_model, len(training_data))
    return TrainingWindow(recommender, past.maker, interactions, split.validation, moment, shown, most, replay)
