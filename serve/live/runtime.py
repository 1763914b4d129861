"""The runtime of a serving process: the active release with its live changes, users, and the threads that follow them.

Each process that serves has one runtime. Three watchers poll the store: for the current release and the A/B test, for
the journal, and for user feedback. Each change makes a new engine; a request keeps the engine that it began with.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serve.core.errors import EXPECTED, WrongDatabase, error_response
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.recall_monitor import RecallMonitor
from serve.live.active_releases import ActiveReleases
from serve.live.event_ingest import EventResult
from serve.live.feedback_watcher import FeedbackWatcher
from serve.live.item_writer import ItemWriter
from serve.live.journal_watcher import JournalWatcher
from serve.live.release_watcher import POLL_SECONDS, ReleaseWatcher
from serve.live.user_state import UserState
from serve.storage.erasure import replay_erasures
from serve.storage.impression_log import ShownItems

_log = logging.getLogger("vetrina")


class ServiceRuntime:
    """Gives requests an engine, the state of users, and the writer of items. A request takes one engine, once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        seconds = settings.recall_probe_seconds
        self._recall_monitor = RecallMonitor(seconds) if seconds else None
        self.users = UserState(settings)
        self.feedback_watcher = FeedbackWatcher(settings, self.users)
        self.releases = ActiveReleases(settings, self.feedback_watcher.online_head, self._recall_monitor)
        self.journal_watcher = JournalWatcher(self.releases)
        self.release_watcher = ReleaseWatcher(settings, self.releases, self.journal_watcher, self._stop)
        self.items = ItemWriter(settings, self.releases, self.journal_watcher)
        # A thread each: loading a release may take minutes, and changes must be visible within a second.
        self._threads = [
            threading.Thread(target=self._poll, args=(poll,), name=name, daemon=True)
            for name, poll in (
                ("release-watcher", self.release_watcher.poll),
                ("journal-watcher", self.journal_watcher.poll),
                ("feedback-watcher", lambda: self.feedback_watcher.poll(self.releases)),
            )
        ]

    def start(self) -> None:
        """Load the current release if there is one, and follow the store from now on."""
        try:
            replay_erasures(self._settings)
        except WrongDatabase:
            raise
        except EXPECTED as error:
            _log.error("recorded erasures could not be replayed: %s", error_response(error).message)
        self.refresh()
        if self._recall_monitor is not None:
            self._recall_monitor.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop following the store, and write the impressions still to be logged."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._recall_monitor is not None:
            self._recall_monitor.stop()
        self.users.close()

    def refresh(self) -> None:
        """Load the current release if it has changed, and apply the new changes of the journal."""
        self.release_watcher.poll()
        self.journal_watcher.poll()

    @property
    def ready(self) -> bool:
        """Whether a release is loaded."""
        return self.releases.current is not None

    @property
    def engine(self) -> Engine:
        """The engine of the active release; raises StoreUnavailable while there is none."""
        return self.releases.active().engine

    def engine_for(self, user_id: str | None) -> Engine:
        """Return the engine that serves a user: in an A/B test this may be the treatment's."""
        return self.releases.engine_for(user_id)

    def engine_at(self, name: str) -> Engine:
        """Return the engine of any release on disk, see `ReleaseWatcher.engine_at`."""
        return self.release_watcher.engine_at(name)

    def bucket(self, user_id: str) -> str:
        """Return the A/B test bucket of a user, `control` while no test runs."""
        return self.releases.bucket(user_id)

    def activate(self, name: str) -> None:
        """Make a release the current one, see `ReleaseWatcher.activate`."""
        self.release_watcher.activate(name)

    def drift(self) -> dict[str, float]:
        """Return the drift (PSI) of each feature of the items that the active release shows, in this process."""
        return self.feedback_watcher.drift(self.engine.snapshot.release.name)

    def impression_logger(
        self, request_id: str, user_id: str | None, engine: Engine
    ) -> Callable[[ShownItems], None] | None:
        """Return a function that logs a response and counts it for drift; None where responses are not logged.

        The function never waits.
        """
        if not self._settings.log_impressions:
            return None
        release = engine.snapshot.release.name

        def log(shown: ShownItems) -> None:
            self.users.log_impression(request_id, user_id, release, shown)
            self.feedback_watcher.record(release, shown)

        return log

    def record_events(self, rows: Sequence[Mapping[str, Any]], engine: Engine) -> list[EventResult]:
        """Validate and store events; they are on disk on return. See `UserState.record_events`."""
        return self.users.record_events(
            rows, lambda item_id: engine.snapshot.item_index(item_id) is not None, self.bucket
        )

    def _poll(self, poll: Callable[[], None]) -> None:
        """Poll until the process stops; log an unexpected error once for as long as it comes back."""
        last = ""
        while not self._stop.wait(POLL_SECONDS):
            try:
                poll()
                last = ""
            except Exception as error:
                if repr(error) != last:
                    _log.exception("%s failed, it tries again", threading.current_thread().name)
                last = repr(error)
