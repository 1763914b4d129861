"""Routes for items: one item, its photos, live changes."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from embed.images import ImageRefused, decode_image
from serve.core.errors import NotFound
from serve.engine.response import item_fields
from serve.http.openapi import NOT_FOUND
from serve.http.request_parsing import ItemIdInPath, LiveRelease, caller_name, get_settings, respond
from serve.live.item_changes import ItemChangeResult
from serve.live.runtime import ServiceRuntime
from serve.release.images import image_source
from serve.schemas.items import ChangesResponse, ImageQuery, ItemIdsRequest, ItemsRequest, PatchesRequest
from serve.schemas.search import ItemResponse
from serve.security import audit_log

router = APIRouter(tags=["Items"])
JPEG_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the photo as JPEG",
        "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary", "title": "Photo"}}},
    }
}


@router.get(
    "/v1/items/{item_id}",
    response_model=ItemResponse,
    operation_id="getItem",
    summary="Get an item",
    responses=NOT_FOUND,
)
async def get_item(item_id: ItemIdInPath, live: LiveRelease) -> Response:
    """Returns an item with all catalogue fields."""
    started = time.perf_counter()
    engine = live.engine
    item_index = engine.item_index(item_id)
    return respond(engine, {"item": {"item_id": item_id, **item_fields(engine.snapshot, item_index)}}, started)


@router.get(
    "/v1/items/{item_id}/image",
    operation_id="getItemImage",
    summary="Get a photo of an item",
    response_class=Response,
    responses=JPEG_RESPONSE | NOT_FOUND,
)
def get_item_image(
    item_id: ItemIdInPath, request: Request, live: LiveRelease, query: Annotated[ImageQuery, Query()]
) -> Response:
    """Returns a photo, upright and scaled down to fit a square of `size` pixels. The limits on photos apply."""
    engine, settings = live.engine, get_settings(request)
    images = engine.snapshot.item(engine.item_index(item_id)).images
    if query.number >= len(images):
        message = f"item {item_id!r} has {len(images)} photos, counted from 0: there is none with number {query.number}"
        raise NotFound(message, "number", "no_image")
    try:
        with closing(image_source(settings)) as source:
            pixels = decode_image(source.read(images[query.number]), settings.image_limits, shrink_to=query.size)
    except ImageRefused as refused:
        raise NotFound(
            f"the photo of {item_id!r} cannot be shown: {refused.message}", "image", refused.code
        ) from refused
    pixels.thumbnail((query.size, query.size))
    jpeg = BytesIO()
    pixels.convert("RGB").save(jpeg, "JPEG", quality=82)
    return Response(jpeg.getvalue(), media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


@router.put("/v1/items", response_model=ChangesResponse, operation_id="putItems", summary="Add or replace items")
def put_items(body: ItemsRequest, request: Request, live: LiveRelease) -> Response:
    """Encodes and stores items durably and returns one status per row. Visible in every process within 1 second."""
    return _change_items(request, live, "put", lambda: live.items.put(body.items))


@router.patch(
    "/v1/items", response_model=ChangesResponse, operation_id="patchItems", summary="Change price or availability"
)
def patch_items(body: PatchesRequest, request: Request, live: LiveRelease) -> Response:
    """Changes fields that no encoder reads, which is fast. Other fields keep their values."""
    return _change_items(request, live, "patch", lambda: live.items.patch(body.items))


@router.delete("/v1/items", response_model=ChangesResponse, operation_id="deleteItems", summary="Delete several items")
def delete_items(body: ItemIdsRequest, request: Request, live: LiveRelease) -> Response:
    """Deletes items from the responses of every process within 1 second, and from the next build."""
    return _change_items(request, live, "delete", lambda: live.items.delete(body.item_ids))


@router.delete(
    "/v1/items/{item_id}",
    response_model=ChangesResponse,
    operation_id="deleteItem",
    summary="Delete an item",
    responses=NOT_FOUND,
)
def delete_item(item_id: ItemIdInPath, request: Request, live: LiveRelease) -> Response:
    """Deletes an item from the responses of every process within 1 second, and from the next build."""
    return _change_items(request, live, "delete", lambda: live.items.delete([item_id]), unknown_is_an_error=True)


def _change_items(
    request: Request,
    live: ServiceRuntime,
    method: str,
    change: Callable[[], list[ItemChangeResult]],
    unknown_is_an_error: bool = False,
) -> Response:
    """Change items and write the audit log.

    Args:
        request: the request, whose caller is logged.
        live: the runtime.
        method: kind of the change, for the audit log.
        change: makes the change.
        unknown_is_an_error: whether an unknown item is a 404 instead of a status.
    """
    started = time.perf_counter()
    results = change()
    engine = live.engine
    counts = dict(Counter(result.status for result in results))
    audit_log.record(get_settings(request).store, f"{method} items", caller_name(request), **counts)
    if unknown_is_an_error and results[0].status == "unknown":
        raise NotFound(f"there is no item {results[0].item_id!r}", "item_id", "unknown_item")
    return respond(engine, {"items": results}, started)
