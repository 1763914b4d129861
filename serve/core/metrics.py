"""Prometheus metrics of the service; `/metrics` returns them.

With several worker processes, each writes its values into the folder that PROMETHEUS_MULTIPROC_DIR names, and each of
them returns the values of all.
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

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10)
REQUESTS = Histogram("vetrina_request_seconds", "Duration of requests", ["operation", "status"], buckets=SECONDS)
STAGES = Histogram("vetrina_stage_seconds", "Duration of the stages of a request", ["stage"], buckets=SECONDS)
IN_FLIGHT = Gauge("vetrina_in_flight", "Requests in progress", multiprocess_mode="livesum")
MAX_IN_FLIGHT = Gauge(
    "vetrina_in_flight_limit", "Requests in progress above which new ones are shed", multiprocess_mode="livesum"
)
SHED = Counter("vetrina_shed", "Requests rejected because the service is overloaded")
REFUSED = Counter("vetrina_refused", "Requests rejected because of their API key or rate limit", ["status"])
PARTIAL = Counter("vetrina_partial", "Responses from which a part is missing, by part", ["missing"])
CANDIDATES = Counter("vetrina_candidates", "Candidates by the retriever that proposed them", ["retriever"])
CACHE = Counter("vetrina_cache", "Cache lookups by outcome", ["cache", "outcome"])
PROBED = Counter("vetrina_probe_neighbours", "Exact nearest neighbours of probed live queries", ["space"])
PROBE_FOUND = Counter("vetrina_probe_found", "Exact nearest neighbours that the index also returned", ["space"])
RELEASE = Gauge("vetrina_release", "1 for the active release", ["release"], multiprocess_mode="livemax")
HIDDEN = Gauge("vetrina_hidden_items", "Items hidden by the content policy", multiprocess_mode="livemax")
RESPONSES = Counter("vetrina_responses", "Recommendation responses", ["release", "bucket"])
ATTRIBUTED_EVENTS = Counter("vetrina_attributed_events", "Events attributed to a response", ["bucket", "head"])
VALUE = Counter("vetrina_value", "Value of the events attributed to a response, by head_values", ["bucket"])
EVENTS = Counter("vetrina_events", "Events received, by status", ["status"])
IMPRESSIONS_DROPPED = Counter("vetrina_impressions_dropped", "Responses missing from the impression log")
FAILURES = Counter("vetrina_scorer_failures", "Responses that the scorer could not rank or explain")
LEARNED = Counter("vetrina_feedback", "Events read by online learning, by outcome", ["outcome"])
DRIFT = Gauge(
    "vetrina_drift_psi",
    "Population stability index of a feature of the shown items, compared to when the release was built",
    ["release", "feature"],
    multiprocess_mode="livemax",
)
DRIFTED = Gauge(
    "vetrina_drift_alert", "Features whose index exceeds drift_alert", ["release"], multiprocess_mode="livemax"
)


def counter_total(name: str) -> int:
    """Return the value of a counter without labels, summed over all processes."""
    value = _registry().get_sample_value(name)
    return int(value or 0)


def render_metrics() -> tuple[bytes, str]:
    """Return all metrics in the text format of Prometheus, and its media type."""
    return generate_latest(_registry()), CONTENT_TYPE_LATEST


def _registry() -> CollectorRegistry:
    if not os.environ.get(FOLDER_VARIABLE):
        return REGISTRY
    for file in Path(os.environ[FOLDER_VARIABLE]).glob("gauge_live*.db"):  # would otherwise outlive a dead worker
        if not Path(f"/proc/{file.stem.rpartition('_')[2]}").exists():
            file.unlink(missing_ok=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
