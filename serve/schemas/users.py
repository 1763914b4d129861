"""Requests and responses for users: history, preferences, erasure."""

from typing import Any

from pydantic import BaseModel, Field

from serve.schemas.common import ResponseBase
from serve.storage.preferences import Preferences


class UserResponse(ResponseBase):
    """The stored events and preferences of a user."""

    user_id: str = Field(description="id of the user")
    known: bool = Field(description="true if the user has stored events")
    events: int = Field(description="number of stored events")
    history: list[dict[str, Any]] = Field(description="last events, the latest first")
    preferences: Preferences = Field(description="preferences of the user")


class PreferencesResponse(ResponseBase):
    """The stored preferences of a user."""

    user_id: str = Field(description="id of the user")
    preferences: Preferences = Field(description="preferences of the user")


class ErasedRows(BaseModel):
    """Numbers of deleted rows."""

    events: int = Field(description="deleted events")
    impressions: int = Field(description="deleted impressions")
    preferences: int = Field(description="deleted preferences")
    contacts: int = Field(description="deleted campaign contacts")


class ErasureResponse(ResponseBase):
    """The result of an erasure. No data of the user is left."""

    user_id: str = Field(description="id of the user")
    removed: ErasedRows = Field(description="numbers of deleted rows")


class ActiveUser(BaseModel):
    """A recently active user."""

    user_id: str = Field(description="id of the user")
    events: int = Field(description="number of the user's events among the latest events")
    last: float = Field(description="time of the last event, epoch seconds")


class UsersResponse(ResponseBase):
    """Recently active users."""

    users: list[ActiveUser] = Field(description="users, the most recently active first")
