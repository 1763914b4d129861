"""What Prometheus is told of the service; `/metrics` answers with it.

Where several processes answer, each writes what it counts into a folder that PROMETHEUS_MULTIPROC_DIR names, and any of
them answers for all.
"""

import os

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
ANSWERS = Counter("vetrina_answers", "Recommendations that were given", ["release", "bucket"])
ACTS = Counter("vetrina_acts", "What shoppers did with answers", ["bucket", "head"])
WORTH = Counter("vetrina_worth", "What acts on answers are worth, by head_values", ["bucket"])
EVENTS = Counter("vetrina_events", "Events that were sent", ["status"])
DROPPED = Counter("vetrina_answers_dropped", "Answers that could not be logged")
FAILURES = Counter("vetrina_scorer_failures", "Answers that the scorer could not rank or explain")
LEARNED = Counter("vetrina_feedback", "Acts that the online head heard of", ["outcome"])
DRIFT = Gauge(
    "vetrina_drift_psi",
    "Population stability index of what is shown against what the release showed when it was made",
    ["release", "feature"],
    multiprocess_mode="livemax",
)
DRIFTED = Gauge(
    "vetrina_drift_alert", "Features whose index is over drift_alert", ["release"], multiprocess_mode="livemax"
)


def exposed() -> tuple[bytes, str]:
    """All metrics in Prometheus' text format, and its media type."""
    registry = REGISTRY
    if os.environ.get(FOLDER):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
