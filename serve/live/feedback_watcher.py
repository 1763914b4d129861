"""Follows user feedback: learns from it online, and monitors drift."""

import logging

from serve.core.errors import EXPECTED, StoreUnavailable
from serve.core.settings import Settings
from serve.live.active_releases import ActiveReleases
from serve.live.drift_monitor import DriftMonitor
from serve.live.online_learning import OnlineLearner
from serve.live.repeated_errors import RepeatedErrors
from serve.live.user_state import UserState
from serve.recommend.ranking.online_head import OnlineHead
from serve.release.release import Release
from serve.storage.impression_log import ShownItems

_log = logging.getLogger("vetrina")


class FeedbackWatcher:
    """Keeps an online learner for each scorer, and a drift monitor for each release, that is served."""

    def __init__(self, settings: Settings, users: UserState) -> None:
        self._settings, self._users = settings, users
        self.learners: dict[str, OnlineLearner] = {}  # by the scorer's fingerprint
        self.monitors: dict[str, DriftMonitor] = {}  # by the release's name
        self._errors = RepeatedErrors("feedback cannot be read")

    def online_head(self, release: Release) -> OnlineHead | None:
        """Return the online head of a release's scorer; None where nothing is learned online.

        The caller holds the lock of `ActiveReleases`.
        """
        scorer = release.behaviour.scorer
        if scorer is None or not self._settings.online.learn:
            return None
        try:
            if scorer.fingerprint not in self.learners:
                self.learners[scorer.fingerprint] = OnlineLearner(self._users.events, self._settings, scorer)
            return self.learners[scorer.fingerprint].head
        except StoreUnavailable as error:  # of the event log: a release is served without it
            _log.error("online learning is off: %s", error.message)
            return None

    def poll(self, releases: ActiveReleases) -> None:
        """Learn from the new feedback on the served releases, and publish their drift."""
        with releases.lock:
            served = [each.release for each in releases.replicas()]
            scorers = {release.behaviour.scorer.fingerprint for release in served if release.behaviour.scorer}
            self.learners = {name: each for name, each in self.learners.items() if name in scorers}
            self._monitor(served)
            learners = list(self.learners.values())
        try:
            for learner in learners:
                learner.catch_up()
            for monitor in self.monitors.values():
                monitor.publish()
            self._errors.clear()
        except EXPECTED as error:
            self._errors.report(error)
        except Exception:  # an unexpected error must not end the thread
            _log.exception("feedback could not be learned from")

    def drift(self, release: str) -> dict[str, float]:
        """Return the drift (PSI) of each feature of the items that a release shows, in this process."""
        monitor = self.monitors.get(release)
        return {} if monitor is None else monitor.indices()

    def record(self, release: str, shown: ShownItems) -> None:
        """Count a response of a release for its drift."""
        monitor = self.monitors.get(release)
        if monitor is not None and shown.features is not None:
            monitor.record(shown.features, shown.scores)

    def _monitor(self, releases: list[Release]) -> None:
        """Monitor these releases and no others."""
        self.monitors = {
            each.name: self.monitors.get(each.name) or DriftMonitor(each.name, each.reference, scorer, self._settings)
            for each in releases
            if each.reference is not None and (scorer := each.behaviour.scorer) is not None
        }
