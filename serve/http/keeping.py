"""The operations that keep something: events, what users want, live changes of items."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from serve.edits import Outcome
from serve.errors import NotFound
from serve.guard import audit
from serve.http.contract import MAX_HISTORY
from serve.http.kept import (
    ChangesAnswer,
    ErasedAnswer,
    EventsAnswer,
    EventsRequest,
    IdsRequest,
    ItemsRequest,
    PatchesRequest,
    PreferencesAnswer,
    UserAnswer,
)
from serve.http.requests import ItemIdInPath, LiveRelease, UserIdInPath, by_whom, respond, settings_of
from serve.learn.preferences import Preferences
from serve.live import Live

router = APIRouter()


@router.post("/v1/events", response_model=EventsAnswer, summary="What shoppers did")
def events(wanted: EventsRequest, live: LiveRelease) -> Response:
    """Durable when this answers, and the very next answer of every process goes by it. Send an `event_id`, so that
    what is sent again is known again. Each event has a status of its own."""
    started = time.perf_counter()
    engine = live.engine
    taken = live.take_events(wanted.events, engine)
    return respond(engine, {"events": taken}, started)


@router.get("/v1/users/{user_id}", response_model=UserAnswer, summary="What is known of a user")
def user(user_id: UserIdInPath, live: LiveRelease) -> Response:
    """How many events there are, and the last of them, the latest first."""
    started = time.perf_counter()
    count = live.shoppers.events.count(user_id)
    history = [
        {name: value for name, value in asdict(event).items() if value is not None and name != "user_id"}
        for event in reversed(live.shoppers.events.recent(user_id, MAX_HISTORY))
    ]
    preferences = live.shoppers.rights.preferences(user_id).model_dump()
    body = {"user_id": user_id, "known": count > 0, "events": count, "history": history, "preferences": preferences}
    return respond(live.engine, body, started)


@router.put("/v1/users/{user_id}/preferences", response_model=PreferencesAnswer, summary="What a user wants of answers")
def prefer(user_id: UserIdInPath, wanted: Preferences, live: LiveRelease) -> Response:
    """Replaces what was set before; answers of every process keep to it from now on, `rank` excepted."""
    started = time.perf_counter()
    live.shoppers.rights.prefer(user_id, wanted)
    return respond(live.engine, {"user_id": user_id, "preferences": wanted.model_dump()}, started)


@router.delete("/v1/users/{user_id}", response_model=ErasedAnswer, summary="Forget a user")
def erase(user_id: UserIdInPath, request: Request, live: LiveRelease) -> Response:
    """Removes events, answers and preferences, on disk when this answers; what is trained next does not have them."""
    started = time.perf_counter()
    removed = live.shoppers.erase(user_id)
    audit.note(settings_of(request).store, "erase", by_whom(request), user=audit.hashed(user_id))
    return respond(live.engine, {"user_id": user_id, "removed": removed}, started)


@router.put("/v1/items", response_model=ChangesAnswer, summary="Add or replace items")
def put_items(wanted: ItemsRequest, request: Request, live: LiveRelease) -> Response:
    """Encoded, durable, and visible in every process within a second. Each row has a status of its own."""
    return _changed(request, live, "put", lambda: live.put(wanted.items))


@router.patch("/v1/items", response_model=ChangesAnswer, summary="Change price or availability")
def patch_items(wanted: PatchesRequest, request: Request, live: LiveRelease) -> Response:
    """For what no encoder reads: fast, and the other fields stay as they are."""
    return _changed(request, live, "patch", lambda: live.patch(wanted.items))


@router.delete("/v1/items", response_model=ChangesAnswer, summary="Delete several items")
def delete_items(wanted: IdsRequest, request: Request, live: LiveRelease) -> Response:
    """Gone from every answer of every process within a second, and from the next build."""
    return _changed(request, live, "delete", lambda: live.delete(wanted.item_ids))


@router.delete("/v1/items/{item_id}", response_model=ChangesAnswer, summary="Delete an item")
def delete_item(item_id: ItemIdInPath, request: Request, live: LiveRelease) -> Response:
    """Gone from every answer of every process within a second, and from the next build."""
    return _changed(request, live, "delete", lambda: live.delete([item_id]), unknown_is_an_error=True)


def _changed(
    request: Request, live: Live, act: str, change: Callable[[], list[Outcome]], unknown_is_an_error: bool = False
) -> Response:
    started = time.perf_counter()
    outcomes = change()
    engine = live.engine
    counts = dict(Counter(outcome.status for outcome in outcomes))
    audit.note(settings_of(request).store, f"{act} items", by_whom(request), **counts)
    if unknown_is_an_error and outcomes[0].status == "unknown":
        raise NotFound(f"there is no item {outcomes[0].item_id!r}", "item_id", "unknown_item")
    return respond(engine, {"items": outcomes}, started)
