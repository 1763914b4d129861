"""Requests and responses for users: profile, preferences, erasure."""

from typing import Any

from pydantic import BaseModel

from serve.schemas.common import Answered
from serve.storage.preferences import Preferences


class UserAnswer(Answered):
    """What is known of a user: how many events, and the last of them."""

    user_id: str
    known: bool
    events: int
    history: list[dict[str, Any]]
    preferences: Preferences


class PreferencesAnswer(Answered):
    """What a user wants of answers, as it is kept now."""

    user_id: str
    preferences: Preferences


class RemovedRows(BaseModel):
    """How many rows of each kind were removed."""

    events: int
    answers: int
    preferences: int
    contacts: int


class ErasedAnswer(Answered):
    """What was removed of a user; nothing is left."""

    user_id: str
    removed: RemovedRows
