"""Jobs that learn from the store's events, with the items of its active release: train, tune, evaluate."""

import logging
from pathlib import Path

from embed.behaviour import collect_interactions, split_by_time
from embed.catalogue import Catalogue
from embed.encode_job import SpaceVectors
from serve.core.errors import BadRequest
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.evaluation.evaluate import Evaluation
from serve.evaluation.evaluate import evaluate as run_evaluation
from serve.jobs.build import BuildReport, build
from serve.jobs.encode import encode, has_changed, load_encoders, nonempty_spaces
from serve.jobs.lock import one_job_at_a_time
from serve.jobs.update_scorer import LearnReport
from serve.jobs.update_scorer import learn as run_learn_job
from serve.recommend.ranking.impressions import HORIZON, read_impressions
from serve.release.release import Release
from serve.release.repository import open_current
from serve.storage.bot_detection import quarantine_bots
from serve.storage.erasure import replay_erasures
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog, events_with_impressions
from serve.training.scorer_job import ScorerReport
from serve.training.scorer_job import train_scorer as run_scorer_job
from serve.training.tower_tuning import TuningReport, tune_towers
from serve.training.towers_job import TrainingReport, check_enough, prepare_training_data, train_towers

log = logging.getLogger("vetrina")


def train(settings: Settings, progress: Progress | None = None) -> TrainingReport:
    """Train the towers and the linear score model on the store's events, with the items of its active release."""
    replay_erasures(settings)
    _quarantine_robots(settings)
    with one_job_at_a_time(settings.store):
        return train_towers(settings, *open_release_and_spaces(settings, progress), progress)


def train_scorer(settings: Settings, progress: Progress | None = None) -> ScorerReport:
    """Train the scorer on the events from the start of the towers' validation period."""
    replay_erasures(settings)
    _quarantine_robots(settings)
    with one_job_at_a_time(settings.store):
        return run_scorer_job(settings, *open_release_and_spaces(settings, progress), progress)


def learn(settings: Settings, progress: Progress | None = None) -> tuple[LearnReport, BuildReport | None]:
    """Continue the scorer's training, and build a release with it unless it measures worse; None if it does."""
    replay_erasures(settings)
    _quarantine_robots(settings)
    with one_job_at_a_time(settings.store):
        report = run_learn_job(settings, *open_release_and_spaces(settings, progress), progress)
    return report, build(settings, progress=progress) if report.accepted else None


def evaluate(settings: Settings, folder: Path, ablate: bool = False, progress: Progress | None = None) -> Evaluation:
    """Measure the pipeline and baselines on the last tenth of the events; `folder` holds its temporary files.

    With `ablate`, also measure the scorer without each group of its features.
    """
    with one_job_at_a_time(settings.store):
        release, spaces = open_release_and_spaces(settings, progress)
        events = open_event_log(settings)
        ids = release.catalogue.ids()
        interactions, _ = collect_interactions((batch for _, batch in events.batches()), ids, settings.signal)
        split = split_by_time(interactions)
        check_enough(split, interactions)
        impressions = read_impressions(
            # Events are attributed to a list for a day after it; that must not reach into the test period.
            events_with_impressions(events, ImpressionLog(events.database), split.validation_from),
            ids,
            settings.signal,
            split.validation_from,
            split.test_from - HORIZON,
        )
        events.close()
        with prepare_training_data(settings, release, spaces, folder) as training_data:
            catalogue = release.catalogue
            return run_evaluation(training_data, catalogue, split, impressions, settings, folder, ablate, progress)


def _quarantine_robots(settings: Settings) -> None:
    """Put robots and click floods into quarantine, as their events are not learned from."""
    events = open_event_log(settings)
    found = quarantine_bots(events)
    if found:  # no names in a log
        log.warning("%d users put into quarantine: see vetrina quarantine list", len(found))
    events.close()


def tune(settings: Settings, trials: int, progress: Progress | None = None) -> TuningReport:
    """Search for better settings of the towers by their validation, continuing earlier trials."""
    with one_job_at_a_time(settings.store):
        return tune_towers(settings, *open_release_and_spaces(settings, progress), trials, progress)


def open_release_and_spaces(settings: Settings, progress: Progress | None) -> tuple[Release, list[SpaceVectors]]:
    """Open the active release and the vectors of its catalogue; raises BadRequest where they do not fit each other."""
    release = open_current(settings.store)
    catalogue = Catalogue.current(settings.store)
    if catalogue.version != release.manifest.catalogue:
        raise BadRequest(f"the catalogue changed after release {release.name}: run vetrina build first", "store")
    encoders = load_encoders(settings)
    if has_changed(encoders, release.manifest):
        raise BadRequest(
            f"the encoders of the settings are not those of release {release.name}, with whose vectors models are "
            "trained: run vetrina build first, or set the encoders back",
            "image_encoder",
        )
    spaces = nonempty_spaces(encode(settings, catalogue, encoders, progress))
    present = {space.space: space.fingerprint for space in spaces}
    expected = {name: entry.fingerprint for name, entry in release.manifest.spaces.items()}
    if present != expected:
        raise BadRequest(
            f"release {release.name} has the spaces {_named(expected)}, the catalogue now has {_named(present)}: "
            "run vetrina build first",
            "store",
        )
    return release, spaces


def _named(spaces: dict[str, str]) -> str:
    return ", ".join(f"{name} ({fingerprint})" for name, fingerprint in sorted(spaces.items())) or "none"
