"""Follows the store's current release and its A/B test: loads releases and puts them to use."""

import logging
import threading
import time

from embed.errors import Unavailable
from serve.core.errors import EXPECTED
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.live.active_releases import ActiveReleases
from serve.live.journal_watcher import JournalWatcher
from serve.live.repeated_errors import RepeatedErrors
from serve.live.replica import ReleaseReplica, loading_together
from serve.release.ab_test import Experiment, running
from serve.release.release import Release
from serve.release.repository import current_name, make_current, release_folder

POLL_SECONDS = 0.1
RETRY_SECONDS = 5.0

_log = logging.getLogger("vetrina")


class ReleaseWatcher:
    """Loads the current release when it changes, and the treatment of an A/B test when one starts.

    A release that cannot be loaded is refused: the one before stays active, and it is not tried again until another
    release becomes current. Only where a server of its encoders does not respond, it is tried again in a few seconds.
    """

    def __init__(
        self, settings: Settings, releases: ActiveReleases, journal: JournalWatcher, stop: threading.Event
    ) -> None:
        self._settings, self._releases, self._journal, self._stop = settings, releases, journal, stop
        self._loading = threading.Lock()
        self._compared: ReleaseReplica | None = None  # loaded for a comparison only
        self.refused: str | None = None  # the release that was refused last
        self._refused_test: Experiment | None = None
        self._not_before = 0.0  # by the monotonic clock
        self._release_errors = RepeatedErrors("release %s was refused, the one before stays active")
        self._test_errors = RepeatedErrors("the A/B test is suspended, the active release serves all users")

    def poll(self) -> None:
        """Load the current release and the treatment that the store names, where they have changed."""
        if time.monotonic() >= self._not_before:
            self._follow_current()
            self._follow_test()

    def activate(self, name: str) -> None:
        """Make a release the current one: here at once, in other processes as soon as they poll.

        Raises NotFound where there is no such release, StoreUnavailable or Damaged where it cannot be used; then
        nothing changes.
        """
        with self._loading:
            self._load(name, is_current=False)

    def engine_at(self, name: str) -> Engine:
        """Return the engine of any release on disk, for a comparison; the release compared last stays loaded.

        Raises NotFound where there is no such release, StoreUnavailable or Damaged where it cannot be used.
        """
        with self._loading:
            loaded = [*self._releases.replicas(), *([] if self._compared is None else [self._compared])]
            replica = next((each for each in loaded if each.release.name == name), None)
            if replica is None:
                replica = self._compared = self._loaded(name)
            with self._releases.lock:
                self._journal.catch_up(replica)
                return self._releases.make_engine(replica)

    def _follow_current(self) -> None:
        name: str | None = "current"
        try:
            with self._loading:
                name = current_name(self._settings.store)
                current = self._releases.current
                if name is not None and name not in (self.refused, current and current.replica.release.name):
                    self._load(name)
        except EXPECTED as error:
            self.refused = None if self._is_temporary(error) else name
            self._releases.missing_reason = self._release_errors.report(error, name)
        except Exception:  # an unexpected error must not end the thread
            _log.exception("release %s could not be loaded, the one before stays active", name)
            self.refused, self._releases.missing_reason = name, "internal error, see the log"

    def _follow_test(self) -> None:
        """Serve the treatment of the store's A/B test, unless it is the active release already."""
        experiment = None
        try:
            with self._loading:
                experiment, current = running(self._settings.store), self._releases.current
                if current is None or (experiment and experiment.release == current.replica.release.name):
                    experiment = None
                treatment = self._releases.treatment
                before = None if treatment is None else treatment.experiment
                if experiment != before and (experiment is None or experiment != self._refused_test):
                    self._switch_test(experiment)
                    self._refused_test = None
                    self._test_errors.clear()
        except EXPECTED as error:
            self._releases.treatment = None
            self._refused_test = None if self._is_temporary(error) else experiment
            self._test_errors.report(error)
        except Exception:  # an unexpected error must not end the thread
            self._releases.treatment, self._refused_test = None, experiment
            _log.exception("the A/B test is suspended, the active release serves all users")

    def _is_temporary(self, error: Exception) -> bool:
        """Return whether what failed is to be tried again, and put that off a little."""
        if isinstance(error, Unavailable):
            self._not_before = time.monotonic() + RETRY_SECONDS
        return isinstance(error, Unavailable)

    def _switch_test(self, experiment: Experiment | None) -> None:
        """Start an A/B test, or end the running one for None."""
        if experiment is None:
            self._releases.treatment = None
            _log.info("the A/B test has ended")
            return
        replica = self._loaded(experiment.release)
        with self._releases.lock:
            self._journal.catch_up(replica)
            self._releases.serve_treatment(experiment, replica)
        _log.info("release %s serves %.0f%% of the users", experiment.release, 100 * experiment.share)

    def _load(self, name: str, is_current: bool = True) -> None:
        """Load a release with the live changes since it was built, and serve it; make it current if it is not."""
        started = time.monotonic()
        with loading_together(release_folder(self._settings.store, name), self._stop):
            replica = self._loaded(name)
            if not is_current:
                make_current(self._settings.store, name)
                self._stop.wait(2 * POLL_SECONDS)  # by then the other processes are loading it too
        if current_name(self._settings.store) != name:  # another release became current while this one was loaded
            return
        with self._releases.lock:
            self._journal.catch_up(replica)
            self.refused = None
            before = self._releases.serve(replica)
        if before is not None:
            before.release.let_go()
        _log.info("release %s is active, loaded in %.1f s", name, time.monotonic() - started)

    def _loaded(self, name: str) -> ReleaseReplica:
        """Load and warm up a release with the changes that the journal has by now."""
        encoders = self._releases.encoders
        release = Release(release_folder(self._settings.store, name))
        encoders.warm_up(release.manifest)
        release.behaviour.warm_up()
        replica = ReleaseReplica(release, self._settings, encoders)
        self._journal.catch_up(replica)  # without the lock, so that nothing waits; later changes are read later
        self._releases.make_engine(replica).warm_up()
        return replica
