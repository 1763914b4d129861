"""The operations that keep something: events, what users want, live changes of items."""

import time
from collections import Counter
from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from serve.core.errors import NotFound
from serve.http.request_parsing import ItemIdInPath, LiveRelease, by_whom, respond, settings_of
from serve.live.item_changes import ItemChangeResult
from serve.live.runtime import ServiceRuntime
from serve.schemas.items import ChangesResponse, ItemIdsRequest, ItemsRequest, PatchesRequest
from serve.security import audit_log

router = APIRouter()


@router.put("/v1/items", response_model=ChangesResponse, summary="Add or replace items")
def put_items(wanted: ItemsRequest, request: Request, live: LiveRelease) -> Response:
    """Encoded, durable, and visible in every process within a second. Each row has a status of its own."""
    return _changed(request, live, "put", lambda: live.put(wanted.items))


@router.patch("/v1/items", response_model=ChangesResponse, summary="Change price or availability")
def patch_items(wanted: PatchesRequest, request: Request, live: LiveRelease) -> Response:
    """For what no encoder reads: fast, and the other fields stay as they are."""
    return _changed(request, live, "patch", lambda: live.patch(wanted.items))


@router.delete("/v1/items", response_model=ChangesResponse, summary="Delete several items")
def delete_items(wanted: ItemIdsRequest, request: Request, live: LiveRelease) -> Response:
    """Gone from every answer of every process within a second, and from the next build."""
    return _changed(request, live, "delete", lambda: live.delete(wanted.item_ids))


@router.delete("/v1/items/{item_id}", response_model=ChangesResponse, summary="Delete an item")
def delete_item(item_id: ItemIdInPath, request: Request, live: LiveRelease) -> Response:
    """Gone from every answer of every process within a second, and from the next build."""
    return _changed(request, live, "delete", lambda: live.delete([item_id]), unknown_is_an_error=True)


def _changed(
    request: Request,
    live: ServiceRuntime,
    act: str,
    change: Callable[[], list[ItemChangeResult]],
    unknown_is_an_error: bool = False,
) -> Response:
    started = time.perf_counter()
    outcomes = change()
    engine = live.engine
    counts = dict(Counter(outcome.status for outcome in outcomes))
    audit_log.note(settings_of(request).store, f"{act} items", by_whom(request), **counts)
    if unknown_is_an_error and outcomes[0].status == "unknown":
        raise NotFound(f"there is no item {outcomes[0].item_id!r}", "item_id", "unknown_item")
    return respond(engine, {"items": outcomes}, started)
