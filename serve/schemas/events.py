"""Requests and responses for user events."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.schemas.common import MAX_EVENTS, ResponseBase, Strict


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


class EventStatus(BaseModel):
    """What became of one event: parked is kept too, for when the catalogue has its item."""

    event_id: str
    status: Literal["stored", "parked", "duplicate", "rejected"]
    code: str
    message: str
    field: str


class EventsResponse(ResponseBase):
    """The events as they came. What was taken is durable, and the very next answer goes by it."""

    events: list[EventStatus]
