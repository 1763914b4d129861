"""Jobs that learn from the store's events, with the items of its current release: train, tune, evaluate."""

import logging
from pathlib import Path

from embed.behaviour import collect, split_by_time
from embed.catalogue import Catalogue
from embed.encode_job import SpaceVectors
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.evaluation.evaluate import Evaluation
from serve.evaluation.evaluate import evaluate as run_evaluation
from serve.jobs.build import BuildReport, Progress, build, one_job_at_a_time
from serve.jobs.encode import encode, filled
from serve.jobs.update_scorer import LearnReport
from serve.jobs.update_scorer import learn as run_learn_job
from serve.recommend.ranking.impressions import HORIZON, read_impressions
from serve.release.release import Release
from serve.release.repository import open_current
from serve.storage.bot_detection import watch
from serve.storage.erasure import replay_erasures
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog, with_impressions
from serve.training.scorer_job import ScorerReport
from serve.training.scorer_job import train_scorer as run_scorer_job
from serve.training.tower_tuning import TuningReport, tune_towers
from serve.training.towers_job import TrainingReport, check_enough, train_towers, training_data_of

log = logging.getLogger("vetrina")


def train(settings: Settings, progress: Progress | None = None) -> TrainingReport:
    """Train towers and blend on the events of the store, with the items of its current release."""
    replay_erasures(settings)
    _watch(settings)
    with one_job_at_a_time(settings.store):
        return train_towers(settings, *released(settings, progress), progress)


def train_scorer(settings: Settings, progress: Progress | None = None) -> ScorerReport:
    """Train the scorer on the events since the towers' validation began."""
    replay_erasures(settings)
    _watch(settings)
    with one_job_at_a_time(settings.store):
        return run_scorer_job(settings, *released(settings, progress), progress)


def learn(settings: Settings, progress: Progress | None = None) -> tuple[LearnReport, BuildReport | None]:
    """Let the scorer go on learning, and build and publish a release with it if it measures no worse; None if not."""
    replay_erasures(settings)
    _watch(settings)
    with one_job_at_a_time(settings.store):
        report = run_learn_job(settings, *released(settings, progress), progress)
    return report, build(settings, progress=progress) if report.kept else None


def evaluate(settings: Settings, folder: Path, ablate: bool = False, progress: Progress | None = None) -> Evaluation:
    """Measure the pipeline beside baselines on the last tenth of the events; `folder` is for what it works with.

    With `ablate` also without each group of the scorer's features.
    """
    with one_job_at_a_time(settings.store):
        release, spaces = released(settings, progress)
    store = open_event_log(settings)
    ids = release.catalogue.ids()
    interactions, _ = collect((batch for _, batch in store.batches()), ids, settings.signal)
    split = split_by_time(interactions)
    check_enough(split, interactions)
    shown = read_impressions(
        # What came of a list is looked for until a day later, which must not reach into the test.
        with_impressions(store, ImpressionLog(store.database), split.validation_from),
        ids,
        settings.signal,
        split.validation_from,
        split.test_from - HORIZON,
    )
    store.close()
    with training_data_of(settings, release, spaces, folder) as training_data:
        return run_evaluation(training_data, release.catalogue, split, shown, settings, folder, ablate, progress)


def _watch(settings: Settings) -> None:
    """What robots and floods did is not to be learned from."""
    events = open_event_log(settings)
    found = watch(events)
    if found:  # no names in a log
        log.warning("%d users went into quarantine: vetrina quarantine list", len(found))
    events.close()


def tune(settings: Settings, trials: int, progress: Progress | None = None) -> TuningReport:
    """Look for better settings of the towers on validation, going on with the trials that are there."""
    with one_job_at_a_time(settings.store):
        return tune_towers(settings, *released(settings, progress), trials, progress)


def released(settings: Settings, progress: Progress | None) -> tuple[Release, list[SpaceVectors]]:
    """The current release and the vectors of its catalogue, from which towers learn; refused where they differ."""
    release = open_current(settings.store)
    catalogue = Catalogue.current(settings.store)
    if catalogue.version != release.manifest.catalogue:
        raise BadRequest(f"the catalogue has changed since release {release.name}: run vetrina build first", "store")
    spaces = filled(encode(settings, catalogue, progress))
    there = {space.space: space.fingerprint for space in spaces}
    released = {name: entry.fingerprint for name, entry in release.manifest.spaces.items()}
    if there != released:
        raise BadRequest(
            f"release {release.name} has spaces {released}, the encoders now make {there}: run vetrina build first",
            "store",
        )
    return release, spaces
