"""Routes for operators: caller, catalogue report, activity, content policy."""

import time
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response

from embed.catalogue import Catalogue, read_report
from serve.core.errors import BadRequest
from serve.core.metrics import counter_total
from serve.core.request_context import current
from serve.core.settings import Settings
from serve.evaluation import ab_report
from serve.http.deprecated import add_deprecated_fields
from serve.http.request_parsing import LiveRelease, get_settings, respond
from serve.release.ab_test import running
from serve.schemas.operations import (
    ActivityResponse,
    CallerResponse,
    CatalogueReportResponse,
    PageQuery,
    ReviewResponse,
)
from serve.security.api_keys import SCOPES
from serve.storage.event_statistics import EventStatistics

router = APIRouter(tags=["Operations"])
ACTIVITY_SECONDS = 48 * 3600


@router.get("/v1/me", response_model=CallerResponse, operation_id="getCaller", summary="Get the caller's permissions")
async def get_caller(request: Request) -> Response:
    """Returns whether this service requires keys, and the scopes of the key of this request."""
    key = request.state.caller.key
    content = {
        "request_id": current().id,
        "auth": "none" if key is None else "keys",
        "name": key.name if key else "",
        "scopes": key.scopes if key else SCOPES,
    }
    return Response(orjson.dumps(add_deprecated_fields(content)), media_type="application/json")


@router.get(
    "/v1/catalogue",
    response_model=CatalogueReportResponse,
    operation_id="getCatalogueReport",
    summary="Get the report of the feed",
)
def get_catalogue_report(request: Request, live: LiveRelease, page: Annotated[PageQuery, Query()]) -> Response:
    """Returns numbers of rows read, kept, repaired and rejected in the last feed, by reason, and the rejected rows."""
    started = time.perf_counter()
    catalogue = Catalogue.current(get_settings(request).store)
    report = read_report(catalogue)
    rejects = []
    path = catalogue.file.with_name("rejects.jsonl")
    if path.exists():
        with path.open("rb") as lines:
            rejects = [orjson.loads(line) for line in islice(lines, page.offset, page.offset + page.limit)]
    shown = {name: value for name, value in asdict(report).items() if name not in ("folder", "edits")}
    return respond(live.engine, {"report": shown, "total": report.rejected, "rejects": rejects}, started)


@router.get("/v1/activity", response_model=ActivityResponse, operation_id="getActivity", summary="Get service activity")
def get_activity(request: Request, live: LiveRelease) -> Response:
    """Returns events by hour, drift, the running A/B test, and the number of impressions that could not be logged."""
    started = time.perf_counter()
    settings, since = get_settings(request), time.time() - ACTIVITY_SECONDS
    content = {
        "events": [
            {"start": time.strftime("%Y-%m-%dT%H:00:00Z", time.gmtime(hour * 3600)), "type": type_, "count": count}
            for hour, type_, count in EventStatistics(live.users.events.database).hourly_counts(since)
        ],
        "drift": [
            {"feature": feature, "psi": round(psi, 4), "alert": psi > settings.drift_alert}
            for feature, psi in sorted(live.drift().items(), key=lambda each: -each[1])
        ],
        "experiment": _ab_report(settings),
        "impressions_dropped": counter_total("vetrina_impressions_dropped_total"),
    }
    return respond(live.engine, content, started)


@router.get(
    "/v1/review", response_model=ReviewResponse, operation_id="listHiddenItems", summary="List items hidden by policy"
)
def list_hidden_items(live: LiveRelease, page: Annotated[PageQuery, Query()]) -> Response:
    """Returns the content policy, and each item that it hides with the reason."""
    started = time.perf_counter()
    snapshot = live.engine.snapshot
    hidden = [
        {"item_id": snapshot.item_id(item_index), "title": snapshot.item(item_index).title, "reason": reason}
        for item_index, reason in islice(sorted(snapshot.hidden.items()), page.offset, page.offset + page.limit)
    ]
    blocked = snapshot.policy.blocked
    content = {
        "words": blocked.words,
        "categories": blocked.categories,
        "total": len(snapshot.hidden),
        "hidden": hidden,
    }
    return respond(live.engine, content, started)


def _ab_report(settings: Settings) -> dict[str, Any] | None:
    """Return the report of the running A/B test, a note if there is no data yet, None if no test runs."""
    experiment = running(settings.store)
    if experiment is None:
        return None
    try:
        report: dict[str, Any] = orjson.loads(
            orjson.dumps(ab_report.report(settings), default=lambda model: model.model_dump())
        )
    except BadRequest as error:
        return {"experiment": experiment.model_dump(), "note": error.message}
    return report
