"""Follows the journal: applies the live changes that other processes wrote."""

import logging

from serve.core.errors import EXPECTED
from serve.live.active_releases import ActiveReleases, ServedRelease
from serve.live.repeated_errors import RepeatedErrors
from serve.live.replica import ReleaseReplica

_log = logging.getLogger("vetrina")


class JournalWatcher:
    """Keeps the served replicas up to date with the journal and the content policy."""

    def __init__(self, releases: ActiveReleases) -> None:
        self._releases = releases
        self._errors = RepeatedErrors("the journal is damaged, some live changes are missing and new ones are refused")

    def poll(self) -> None:
        """Apply the new changes of the journal to the served releases, and serve their new snapshots."""
        with self._releases.lock:
            current = self._releases.current
            if current is not None and self._is_outdated(current):
                self._releases.serve(current.replica)
            self.catch_up_treatment()

    def catch_up_treatment(self) -> None:
        """Apply the new changes to the treatment of an A/B test, if one runs."""
        treatment = self._releases.treatment
        if treatment is not None and self._is_outdated(treatment.served):
            self._releases.serve_treatment(treatment.experiment, treatment.served.replica)

    def _is_outdated(self, served: ServedRelease) -> bool:
        """Apply the new changes to a served release; return whether its engine has an older snapshot.

        The replica may be ahead of its engine: a comparison makes it catch up without serving it.
        """
        return self.catch_up(served.replica) or served.engine.snapshot is not served.replica.snapshot

    def catch_up(self, replica: ReleaseReplica) -> bool:
        """Apply the new changes to a replica; return whether its snapshot may have changed.

        Where the journal is damaged, the changes before the damage are applied.
        """
        try:
            return replica.catch_up()
        except EXPECTED as error:
            self._errors.report(error)
        except Exception:
            _log.exception("a live change could not be applied")
        return True
