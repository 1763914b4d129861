"""Requests and answers about what is kept: events, users, live changes of items, releases."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.http.contract import MAX_CHANGES, MAX_EVENTS, Answered, ItemId, Strict
from serve.learn.preferences import Preferences


class EventsRequest(Strict):
    """Events under the contract's names, cleaned as files of them are; `timestamp` is now where it is not given."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "user_id": "u00001",
                            "item_id": "SNK-0007",
                            "type": "click",
                            "event_id": "e-1",
                            "query": "red shoe",
                        }
                    ]
                }
            ]
        },
    )

    events: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_EVENTS)


class TakenEvent(BaseModel):
    """What became of one event: parked is kept too, for when the catalogue has its item."""

    event_id: str
    status: Literal["stored", "parked", "duplicate", "rejected"]
    code: str
    message: str
    field: str


class EventsAnswer(Answered):
    """The events as they came. What was taken is durable, and the very next answer goes by it."""

    events: list[TakenEvent]


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


class ItemsRequest(Strict):
    """Whole items under the catalogue's field names, cleaned as a feed's are."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {
                            "item_id": "NEW-1",
                            "title": "Dotted mug",
                            "category": "Kitchen/Mugs",
                            "price": "8.50 EUR",
                            "image": "images/MUG-0031.jpg",
                        }
                    ]
                }
            ]
        },
    )

    items: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_CHANGES)


class PatchesRequest(Strict):
    """Items by id with the fields that changed: price, currency, available, domain, updated_at."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"items": [{"item_id": "MUG-0031", "price": 7.9, "available": False}]}]},
    )

    items: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_CHANGES)


class IdsRequest(Strict):
    """Items by id."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"item_ids": ["MUG-0031"]}]})

    item_ids: list[ItemId] = Field(min_length=1, max_length=MAX_CHANGES)


class ChangedItem(BaseModel):
    """What became of one row. A rejected one says why; warnings tell what was repaired in others, or left out."""

    item_id: str
    status: Literal["created", "updated", "unchanged", "deleted", "unknown", "rejected"]
    code: str
    message: str
    field: str
    warnings: list[str]


class ChangesAnswer(Answered):
    """The rows as they came. What was taken is durable, and visible in every process within a second."""

    items: list[ChangedItem]


class ReleaseSummary(BaseModel):
    """A release that is on disk."""

    release: str
    current: bool
    created_at: str
    items: int
    spaces: dict[str, dict[str, Any]]


class ReleasesAnswer(Answered):
    """The releases of the store, newest first; `release` is the one that answers now, with `changes` on top."""

    changes: dict[str, int]
    releases: list[ReleaseSummary]
