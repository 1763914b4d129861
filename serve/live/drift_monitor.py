"""Monitors the drift of the items that a release shows: publishes it to Prometheus, and logs a warning."""

import logging
import time

from serve.core.metrics import DRIFT, DRIFTED
from serve.core.settings import Settings
from serve.recommend.ranking.drift import DriftIndex, DriftReference
from serve.recommend.ranking.scorer import Scorer

PUBLISH_SECONDS = 10.0
_log = logging.getLogger("vetrina")


class DriftMonitor(DriftIndex):
    """The drift of one release's responses in one process."""

    def __init__(self, release: str, reference: DriftReference, scorer: Scorer, settings: Settings) -> None:
        super().__init__(reference, scorer.layout.names)
        self._release, self._limit = release, settings.drift_alert
        self._drifted: set[str] = set()
        self._published_at = time.monotonic()

    def publish(self) -> None:
        """Set the gauges, at most once in PUBLISH_SECONDS; each feature that starts to drift is logged once."""
        if time.monotonic() - self._published_at < PUBLISH_SECONDS:
            return
        self._published_at = time.monotonic()
        indices = self.indices()
        for feature, index in indices.items():
            DRIFT.labels(self._release, feature).set(round(index, 4))
        drifted = {feature for feature, index in indices.items() if index > self._limit}
        DRIFTED.labels(self._release).set(len(drifted))
        for feature in sorted(drifted - self._drifted):
            _log.warning("feature %s of shown items has drifted (PSI %.2f)", feature, indices[feature])
        self._drifted = drifted
