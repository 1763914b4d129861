"""Routes for releases: list, manifest, activation, comparison."""

import time
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serve.engine.engine import Engine
from serve.engine.response import hits_body, search_body
from serve.http.openapi import NOT_FOUND
from serve.http.request_parsing import LiveRelease, ReleaseInPath, caller_name, get_settings, respond
from serve.http.routes.recommend import recommend_to
from serve.http.routes.search import build_query, personalize
from serve.live.runtime import ServiceRuntime
from serve.release.manifest import read_manifest
from serve.release.repository import list_manifests, release_folder
from serve.schemas.releases import CompareRequest, CompareResponse, ManifestResponse, ReleasesResponse
from serve.security import audit_log

router = APIRouter(tags=["Releases"])


@router.get("/v1/releases", response_model=ReleasesResponse, operation_id="listReleases", summary="List releases")
def list_releases(request: Request, live: LiveRelease) -> Response:
    """Returns the releases on disk, newest first, with their spaces and measured recall, and the active release."""
    started = time.perf_counter()
    engine = live.engine
    releases = [
        {
            "release": manifest.release,
            "current": manifest.release == engine.snapshot.release.name,
            "created_at": manifest.created_at.isoformat(),
            "items": manifest.items,
            "spaces": {name: space.model_dump(exclude={"curve"}) for name, space in manifest.indexes.items()},
        }
        for manifest in list_manifests(get_settings(request).store)
    ]
    return respond(engine, {"changes": engine.snapshot.changes, "releases": releases}, started)


@router.get(
    "/v1/releases/{release}",
    response_model=ManifestResponse,
    operation_id="getRelease",
    summary="Get the manifest of a release",
    responses=NOT_FOUND,
)
def get_release(release: ReleaseInPath, request: Request, live: LiveRelease) -> Response:
    """Returns lineage, spaces, encoders, indexes and how they were chosen, and quality measured beside the parent."""
    started = time.perf_counter()
    manifest = read_manifest(release_folder(get_settings(request).store, release))
    return respond(live.engine, {"manifest": manifest.model_dump(mode="json", exclude={"files"})}, started)


@router.post(
    "/v1/releases/{release}/activate",
    response_model=ReleasesResponse,
    operation_id="activateRelease",
    summary="Activate a release",
    responses=NOT_FOUND,
)
def activate_release(release: ReleaseInPath, request: Request, live: LiveRelease) -> Response:
    """Makes a release on disk the active one, forward or back, after its files are verified. Live changes stay."""
    before = live.engine.snapshot.release.name if live.ready else None
    live.activate(release)
    audit_log.record(get_settings(request).store, "activate", caller_name(request), release=release, before=before)
    return list_releases(request, live)


@router.post(
    "/v1/compare",
    response_model=CompareResponse,
    operation_id="compareReleases",
    summary="Compare two releases",
    responses=NOT_FOUND,
)
def compare_releases(body: CompareRequest, live: LiveRelease) -> Response:
    """Sends one request to two releases, for example before one replaces the other. Nothing is logged or learned."""
    started = time.perf_counter()
    responses = []
    for name in body.releases:
        engine, sent = live.engine_at(name), time.perf_counter()
        responses.append(orjson.loads(respond(engine, _request_from(engine, live, body), sent).body))
    return respond(live.engine, {"responses": responses}, started)


def _request_from(engine: Engine, live: ServiceRuntime, body: CompareRequest) -> dict[str, Any]:
    """Return the response of one release."""
    if body.search is not None:
        search = body.search
        return search_body(
            engine, build_query(search), personalize(live, search), search.fields, search.understand, search.facets
        )
    if body.similar is not None:
        similar = body.similar
        spaces, personalization = [similar.space] if similar.space else (), personalize(live, similar)
        return hits_body(
            engine.snapshot,
            engine.similar(similar.item_ids, similar.k, spaces, similar.filter, personalization=personalization),
            similar.fields,
        )
    assert body.recommend is not None  # noqa: S101
    recommend = body.recommend.model_copy(update={"explore": False})
    user = live.users.context(recommend.user_id, [event.model_dump() for event in recommend.history])
    return hits_body(engine.snapshot, recommend_to(engine, user, recommend), recommend.fields)
