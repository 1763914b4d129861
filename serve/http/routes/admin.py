"""The operations of whoever runs the service: releases, what became of the catalogue, what goes on, content review.

They need the scope `admin`, as some of them tell of shoppers, but for `me` and the photos of items.
"""

import time
from contextlib import closing
from dataclasses import asdict
from io import BytesIO
from itertools import islice
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response

from embed.catalogue import Catalogue, read_report
from embed.images import ImageRefused, decode_image
from serve.core.errors import BadRequest, NotFound
from serve.core.metrics import total
from serve.core.request_context import current
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.response import answer, answer_search
from serve.evaluation import ab_report
from serve.http.request_parsing import ItemIdInPath, LiveRelease, by_whom, respond, settings_of
from serve.http.routes.recommend import recommended
from serve.http.routes.search import personalization_of, query_of
from serve.live.runtime import ServiceRuntime
from serve.release.ab_test import running
from serve.release.images import image_source
from serve.release.manifest import read_manifest
from serve.release.repository import list_manifests, release_folder
from serve.schemas.admin import (
    ActivityResponse,
    CallerResponse,
    CatalogueReportResponse,
    CompareRequest,
    CompareResponse,
    ImageQuery,
    LatestQuery,
    ManifestResponse,
    PageQuery,
    ReviewResponse,
    UsersResponse,
)
from serve.schemas.releases import ReleasesResponse
from serve.security import audit_log
from serve.security.api_keys import SCOPES

router = APIRouter()
HOURS = 48


@router.get("/v1/me", response_model=CallerResponse, summary="Who calls")
async def me(request: Request) -> dict[str, Any]:
    """Whether this service needs keys, and what the one that came may do."""
    key = request.state.caller.key
    found = {"keys": key is not None, "name": key.name if key else "", "scopes": key.scopes if key else SCOPES}
    return {"request_id": current().id, **found}


@router.get(
    "/v1/items/{item_id}/image",
    summary="A photo of an item",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}, "description": "the photo, fitted into a square"}},
)
def image(
    item_id: ItemIdInPath,
    request: Request,
    live: LiveRelease,
    wanted: Annotated[ImageQuery, Query()],
) -> Response:
    """Read as encoders read it: within limits, from where images may come from, upright."""
    engine, settings = live.engine, settings_of(request)
    images = engine.view.item(engine.item_index(item_id)).images
    if wanted.number >= len(images):
        message = f"item {item_id!r} has {len(images)} photos: there is no number {wanted.number}"
        raise NotFound(message, "number", "no_image")
    try:
        with closing(image_source(settings)) as source:
            pixels = decode_image(source.read(images[wanted.number]), settings.image_limits, shrink_to=wanted.size)
    except ImageRefused as refused:
        raise NotFound(
            f"the photo of {item_id!r} cannot be shown: {refused.message}", "image", refused.code
        ) from refused
    pixels.thumbnail((wanted.size, wanted.size))
    out = BytesIO()
    pixels.convert("RGB").save(out, "JPEG", quality=82)
    return Response(out.getvalue(), media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


@router.get("/v1/releases", response_model=ReleasesResponse, summary="Releases on disk and which one answers")
def releases(request: Request, live: LiveRelease) -> Response:
    """Newest first, each with its spaces and their measured recall."""
    started = time.perf_counter()
    engine = live.engine
    listed = [
        {
            "release": manifest.release,
            "current": manifest.release == engine.view.release.name,
            "created_at": manifest.created_at.isoformat(),
            "items": manifest.items,
            "spaces": {name: space.model_dump(exclude={"curve"}) for name, space in manifest.indexes.items()},
        }
        for manifest in list_manifests(settings_of(request).store)
    ]
    return respond(engine, {"changes": engine.view.changes, "releases": listed}, started)


@router.get("/v1/releases/{release}", response_model=ManifestResponse, summary="What a release says of itself")
def release(release: str, request: Request, live: LiveRelease) -> Response:
    """Lineage, spaces and encoders, indexes and how they were chosen, how it measured beside its parent."""
    started = time.perf_counter()
    manifest = read_manifest(release_folder(settings_of(request).store, release))
    return respond(live.engine, {"manifest": manifest.model_dump(mode="json", exclude={"files"})}, started)


@router.post("/v1/releases/{release}/activate", response_model=ReleasesResponse, summary="Roll forward or back")
def activate(release: str, request: Request, live: LiveRelease) -> Response:
    """Let another release on disk answer, once it is found whole; live changes stay."""
    before = live.engine.view.release.name if live.ready else None
    live.activate(release)
    audit_log.note(settings_of(request).store, "activate", by_whom(request), release=release, before=before)
    return releases(request, live)


@router.post("/v1/compare", response_model=CompareResponse, summary="The same question to two releases")
def compare(wanted: CompareRequest, live: LiveRelease) -> Response:
    """Side by side, before one takes the other's place. Nothing of it is logged or learned from."""
    started = time.perf_counter()
    answers = []
    for name in wanted.releases:
        engine, begun = live.engine_at(name), time.perf_counter()
        answers.append(orjson.loads(respond(engine, _asked(engine, live, wanted), begun).body))
    return respond(live.engine, {"answers": answers}, started)


@router.get("/v1/catalogue", response_model=CatalogueReportResponse, summary="What became of the last feed")
def catalogue(request: Request, live: LiveRelease, page: Annotated[PageQuery, Query()]) -> Response:
    """Rows read, kept, repaired and rejected, by reason, and the rejected ones with line, id and reason."""
    started = time.perf_counter()
    current = Catalogue.current(settings_of(request).store)
    report = read_report(current)
    rejects = []
    path = current.file.with_name("rejects.jsonl")
    if path.exists():
        with path.open("rb") as lines:
            rejects = [orjson.loads(line) for line in islice(lines, page.offset, page.offset + page.limit)]
    shown = {name: value for name, value in asdict(report).items() if name not in ("folder", "edits")}
    return respond(live.engine, {"report": shown, "total": report.rejected, "rejects": rejects}, started)


@router.get("/v1/users", response_model=UsersResponse, summary="Who was there last")
def users(live: LiveRelease, wanted: Annotated[LatestQuery, Query()]) -> Response:
    """The users with the latest events."""
    started = time.perf_counter()
    found = [
        {"user_id": user_id, "events": count, "last": last}
        for user_id, count, last in live.users.events.active(wanted.k)
    ]
    return respond(live.engine, {"users": found}, started)


@router.get("/v1/activity", response_model=ActivityResponse, summary="What goes on")
def activity(request: Request, live: LiveRelease) -> Response:
    """Events by the hour, drift, the A/B test that runs, and answers that could not be logged."""
    started = time.perf_counter()
    settings, since = settings_of(request), time.time() - HOURS * 3600
    body = {
        "events": [
            {"start": time.strftime("%Y-%m-%dT%H:00:00Z", time.gmtime(hour * 3600)), "type": type_, "count": count}
            for hour, type_, count in live.users.events.rates(since)
        ],
        "drift": [
            {"feature": feature, "psi": round(psi, 4), "alert": psi > settings.drift_alert}
            for feature, psi in sorted(live.drift().items(), key=lambda each: -each[1])
        ],
        "experiment": _experiment(settings),
        "answers_dropped": total("vetrina_answers_dropped_total"),
    }
    return respond(live.engine, body, started)


@router.get("/v1/review", response_model=ReviewResponse, summary="What content review hides")
def review(live: LiveRelease, page: Annotated[PageQuery, Query()]) -> Response:
    """The block list, and each item that is not shown with the reason."""
    started = time.perf_counter()
    view = live.engine.view
    hidden = [
        {"item_id": view.text(number), "title": view.item(number).title, "reason": why}
        for number, why in islice(sorted(view.hidden.items()), page.offset, page.offset + page.limit)
    ]
    blocked = view.policy.blocked
    body = {"words": blocked.words, "categories": blocked.categories, "total": len(view.hidden), "hidden": hidden}
    return respond(live.engine, body, started)


def _asked(engine: Engine, live: ServiceRuntime, wanted: CompareRequest) -> dict[str, Any]:
    """What a release answers."""
    if wanted.search is not None:
        of = wanted.search
        return answer_search(engine, query_of(of), personalization_of(live, of), of.fields, of.understand, of.facets)
    if wanted.similar is not None:
        near = wanted.similar
        spaces, personalization = [near.space] if near.space else (), personalization_of(live, near)
        return answer(
            engine.view,
            engine.similar(near.item_ids, near.k, spaces, near.filter, personalization=personalization),
            near.fields,
        )
    assert wanted.recommend is not None  # noqa: S101
    known = live.users.known(wanted.recommend.user_id, [event.model_dump() for event in wanted.recommend.history])
    found = recommended(engine, known, wanted.recommend.model_copy(update={"explore": False}))
    return answer(engine.view, found, wanted.recommend.fields)


def _experiment(settings: Settings) -> dict[str, Any] | None:
    """The A/B test so far, with a word where there is nothing to compare yet; None where none runs."""
    experiment = running(settings.store)
    if experiment is None:
        return None
    try:
        found: dict[str, Any] = orjson.loads(
            orjson.dumps(ab_report.report(settings), default=lambda each: each.model_dump())
        )
    except BadRequest as error:
        return {"experiment": experiment.model_dump(), "note": error.message}
    return found
