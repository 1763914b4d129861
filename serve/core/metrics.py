"""What Prometheus is told of the service; `/metrics` answers with it.

Where several processes answer, each writes what it counts into a folder that PROMETHEUS_MULTIPROC_DIR names, and any of
them answers for all.
"""

import os
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
REQUESTS = Histogram("vetrina_request_seconds", "Requests that were answered", ["operation", "status"], buckets=SECONDS)
STAGES = Histogram("vetrina_stage_seconds", "Stages of requests", ["stage"], buckets=SECONDS)
IN_FLIGHT = Gauge("vetrina_in_flight", "Requests that are being answered", multiprocess_mode="livesum")
MAX_IN_FLIGHT = Gauge(
    "vetrina_in_flight_limit", "Requests at once from which others are shed", multiprocess_mode="livesum"
)
SHED = Counter("vetrina_shed", "Requests that were refused to keep the others fast")
REFUSED = Counter("vetrina_refused", "Requests that were refused for their key or rate", ["status"])
PARTIAL = Counter("vetrina_partial", "Answers that went without something", ["left_out"])
CANDIDATES = Counter("vetrina_candidates", "Candidates that each source proposed", ["source"])
CACHE = Counter("vetrina_cache", "What was asked of what is kept", ["cache", "outcome"])
PROBED = Counter("vetrina_probe_neighbours", "True nearest neighbours of live queries that were looked up", ["space"])
PROBE_FOUND = Counter("vetrina_probe_found", "Those of them that the index had found", ["space"])
RELEASE = Gauge("vetrina_release", "1 for the release that answers", ["release"], multiprocess_mode="livemax")
HIDDEN = Gauge("vetrina_hidden_items", "Items that content review hides", multiprocess_mode="livemax")
ANSWERS = Counter("vetrina_answers", "Recommendations that were given", ["release", "bucket"])
INTERACTIONS = Counter("vetrina_acts", "What shoppers did with answers", ["bucket", "head"])
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


def total(name: str) -> int:
    """A counter without labels, over all processes."""
    found = _registry().get_sample_value(name)
    return int(found or 0)


def exposed() -> tuple[bytes, str]:
    """All metrics in Prometheus' text format, and its media type."""
    return generate_latest(_registry()), CONTENT_TYPE_LATEST


def _registry() -> CollectorRegistry:
    if not os.environ.get(FOLDER):
        return REGISTRY
    for left in Path(os.environ[FOLDER]).glob("gauge_live*.db"):  # by a worker that died it would be told for ever
        if not Path(f"/proc/{left.stem.rpartition('_')[2]}").exists():
            left.unlink(missing_ok=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
