"""The releases that a process serves from: the active one, and the treatment of an A/B test while one runs."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from serve.core.errors import StoreUnavailable
from serve.core.metrics import HIDDEN, RELEASE
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query_encoders import Encoders, make_encoders
from serve.engine.recall_monitor import RecallMonitor
from serve.live.replica import ReleaseReplica
from serve.recommend.ranking.merchandising_rules import RulesFile, rules_file
from serve.recommend.ranking.online_head import OnlineHead
from serve.release.ab_test import CONTROL, Experiment
from serve.release.release import Release


@dataclass(frozen=True)
class ServedRelease:
    """A replica, and the engine over its latest snapshot."""

    replica: ReleaseReplica
    engine: Engine


@dataclass(frozen=True)
class Treatment:
    """An A/B test, and the release that it tries."""

    experiment: Experiment
    served: ServedRelease


class ActiveReleases:
    """Holds the releases that watchers update and requests read. Safe in several threads.

    Code that makes a replica read the journal, or changes the served releases, holds `lock`. Requests need no lock:
    they read `current` and `treatment`, which are replaced as a whole.
    """

    def __init__(
        self,
        settings: Settings,
        online_head: Callable[[Release], OnlineHead | None],
        recall_monitor: RecallMonitor | None,
    ) -> None:
        self._settings, self._online_head, self._recall_monitor = settings, online_head, recall_monitor
        self._rules = RulesFile(rules_file(settings))  # outlives engines: the last valid rules stay
        self.lock = threading.RLock()
        self.current: ServedRelease | None = None
        self.treatment: Treatment | None = None
        self.missing_reason = "build one with vetrina build FEED"

    @cached_property
    def encoders(self) -> Encoders:
        """The encoders that all releases of this process share."""
        return make_encoders(self._settings)

    def active(self) -> ServedRelease:
        """Return the active release; raises StoreUnavailable while there is none."""
        if self.current is None:
            raise StoreUnavailable(f"no release is loaded yet: {self.missing_reason}", "release")
        return self.current

    def engine_for(self, user_id: str | None) -> Engine:
        """Return the engine that serves a user: in an A/B test this may be the treatment's."""
        treatment = self.treatment
        if treatment is None or user_id is None or treatment.experiment.bucket(user_id) == CONTROL:
            return self.active().engine
        return treatment.served.engine

    def bucket(self, user_id: str) -> str:
        """Return the A/B test bucket of a user, `control` while no test runs."""
        treatment = self.treatment
        return CONTROL if treatment is None else treatment.experiment.bucket(user_id)

    def replicas(self) -> list[ReleaseReplica]:
        """Return the replicas of the active release and of the treatment."""
        served = [self.current, None if self.treatment is None else self.treatment.served]
        return [each.replica for each in served if each is not None]

    def make_engine(self, replica: ReleaseReplica) -> Engine:
        """Make an engine over the latest snapshot of a replica."""
        with self.lock:
            head = self._online_head(replica.release)
            return Engine(replica.snapshot, self.encoders, self._settings, self._rules, head, self._recall_monitor)

    def serve(self, replica: ReleaseReplica) -> ReleaseReplica | None:
        """Serve the latest snapshot of a replica as the active release; return the replica served before, if any."""
        with self.lock:
            before, self.current = self.current, ServedRelease(replica, self.make_engine(replica))
        if before is not None:
            RELEASE.labels(before.replica.release.name).set(0)
        RELEASE.labels(replica.release.name).set(1)
        HIDDEN.set(len(replica.snapshot.hidden))
        return None if before is None else before.replica

    def serve_treatment(self, experiment: Experiment, replica: ReleaseReplica) -> None:
        """Serve the latest snapshot of a replica to the users of an A/B test's treatment."""
        with self.lock:
            self.treatment = Treatment(experiment, ServedRelease(replica, self.make_engine(replica)))
