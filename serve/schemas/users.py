"""Requests and responses for users: profile, preferences, erasure."""

from typing import Any

from pydantic import BaseModel

from serve.schemas.common import ResponseBase
from serve.storage.preferences import Preferences


class UserResponse(ResponseBase):
    """What is known of a user: how many events, and the last of them."""

    user_id: str
    known: bool
    events: int
    history: list[dict[str, Any]]
    preferences: Preferences


class PreferencesResponse(ResponseBase):
    """What a user wants of answers, as it is kept now."""

    user_id: str
    preferences: Preferences


class ErasureCounts(BaseModel):
    """How many rows of each kind were removed."""

    events: int
    answers: int
    preferences: int
    contacts: int


class ErasureResponse(ResponseBase):
    """What was removed of a user; nothing is left."""

    user_id: str
    removed: ErasureCounts
