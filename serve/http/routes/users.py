"""Routes for one user: profile, preferences, erasure."""

import time
from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from serve.http.request_parsing import LiveRelease, UserIdInPath, by_whom, respond, settings_of
from serve.schemas.common import MAX_HISTORY
from serve.schemas.users import ErasureResponse, PreferencesResponse, UserResponse
from serve.security import audit_log
from serve.storage.preferences import Preferences

router = APIRouter()


@router.get("/v1/users/{user_id}", response_model=UserResponse, summary="What is known of a user")
def user(user_id: UserIdInPath, live: LiveRelease) -> Response:
    """How many events there are, and the last of them, the latest first."""
    started = time.perf_counter()
    count = live.users.events.count(user_id)
    history = [
        {name: value for name, value in asdict(event).items() if value is not None and name != "user_id"}
        for event in reversed(live.users.events.recent(user_id, MAX_HISTORY))
    ]
    preferences = live.users.rights.preferences(user_id).model_dump()
    body = {"user_id": user_id, "known": count > 0, "events": count, "history": history, "preferences": preferences}
    return respond(live.engine, body, started)


@router.put(
    "/v1/users/{user_id}/preferences", response_model=PreferencesResponse, summary="What a user wants of answers"
)
def prefer(user_id: UserIdInPath, wanted: Preferences, live: LiveRelease) -> Response:
    """Replaces what was set before; answers of every process keep to it from now on, `rank` excepted."""
    started = time.perf_counter()
    live.users.rights.prefer(user_id, wanted)
    return respond(live.engine, {"user_id": user_id, "preferences": wanted.model_dump()}, started)


@router.delete("/v1/users/{user_id}", response_model=ErasureResponse, summary="Forget a user")
def erase(user_id: UserIdInPath, request: Request, live: LiveRelease) -> Response:
    """Removes events, answers and preferences, on disk when this answers; what is trained next does not have them."""
    started = time.perf_counter()
    removed = live.users.erase(user_id)
    audit_log.note(settings_of(request).store, "erase", by_whom(request), user=audit_log.hashed(user_id))
    return respond(live.engine, {"user_id": user_id, "removed": removed}, started)
