"""Routes for users: active users, history, preferences, erasure."""

import time
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from serve.http.request_parsing import LiveRelease, UserIdInPath, caller_name, get_settings, respond
from serve.schemas.common import MAX_HISTORY
from serve.schemas.operations import LatestQuery
from serve.schemas.users import ErasureResponse, PreferencesResponse, UserResponse, UsersResponse
from serve.security import audit_log
from serve.storage.event_statistics import EventStatistics
from serve.storage.preferences import Preferences

router = APIRouter(tags=["Users"])


@router.get(
    "/v1/users", response_model=UsersResponse, operation_id="listActiveUsers", summary="List recently active users"
)
def list_users(live: LiveRelease, query: Annotated[LatestQuery, Query()]) -> Response:
    """Returns the users with the latest events."""
    started = time.perf_counter()
    users = [
        {"user_id": user_id, "events": count, "last": last}
        for user_id, count, last in EventStatistics(live.users.events.database).active_users(query.k)
    ]
    return respond(live.engine, {"users": users}, started)


@router.get("/v1/users/{user_id}", response_model=UserResponse, operation_id="getUser", summary="Get a user")
def get_user(user_id: UserIdInPath, live: LiveRelease) -> Response:
    """Returns the number of stored events, the last of them (the latest first), and the preferences."""
    started = time.perf_counter()
    count = live.users.events.count(user_id)
    history = [
        {name: value for name, value in asdict(event).items() if value is not None and name != "user_id"}
        for event in reversed(live.users.events.recent(user_id, MAX_HISTORY))
    ]
    preferences = live.users.privacy.preferences(user_id).model_dump()
    content = {"user_id": user_id, "known": count > 0, "events": count, "history": history, "preferences": preferences}
    return respond(live.engine, content, started)


@router.put(
    "/v1/users/{user_id}/preferences",
    response_model=PreferencesResponse,
    operation_id="setPreferences",
    summary="Set preferences of a user",
)
def set_preferences(user_id: UserIdInPath, body: Preferences, live: LiveRelease) -> Response:
    """Replaces all preferences of a user. From now on every response of every process respects them, except `rank`."""
    started = time.perf_counter()
    live.users.privacy.set_preferences(user_id, body)
    return respond(live.engine, {"user_id": user_id, "preferences": body.model_dump()}, started)


@router.delete("/v1/users/{user_id}", response_model=ErasureResponse, operation_id="eraseUser", summary="Erase a user")
def erase_user(user_id: UserIdInPath, request: Request, live: LiveRelease) -> Response:
    """Deletes events, impressions, preferences and contacts. On return nothing is left on disk.

    Later trainings do not use the data of the user.
    """
    started = time.perf_counter()
    removed = live.users.erase(user_id)
    audit_log.record(get_settings(request).store, "erase", caller_name(request), user=audit_log.hash_user_id(user_id))
    return respond(live.engine, {"user_id": user_id, "removed": removed}, started)
