"""Watches what a release shows for drift, and tells Prometheus and the log."""

import logging
import time

from serve.core.metrics import DRIFT, DRIFTED
from serve.core.settings import Settings
from serve.recommend.ranking.drift import Drift, Reference
from serve.recommend.ranking.scorer import Scorer

EVERY_SECONDS = 10.0
_log = logging.getLogger("vetrina")


class DriftMonitor(Drift):
    """The drift of one release's answers in one process."""

    def __init__(self, release: str, reference: Reference, scorer: Scorer, settings: Settings) -> None:
        super().__init__(reference, scorer.layout.names)
        self._release, self._limit = release, settings.drift_alert
        self._drifted: set[str] = set()
        self._told = time.monotonic()

    def tell(self) -> None:
        """Set the gauges now and then; the log hears of each feature once."""
        if time.monotonic() - self._told < EVERY_SECONDS:
            return
        self._told = time.monotonic()
        found = self.indices()
        for feature, index in found.items():
            DRIFT.labels(self._release, feature).set(round(index, 4))
        drifted = {feature for feature, index in found.items() if index > self._limit}
        DRIFTED.labels(self._release).set(len(drifted))
        for feature in sorted(drifted - self._drifted):
            _log.warning("%s of what is shown has drifted (PSI %.2f)", feature, found[feature])
        self._drifted = drifted
