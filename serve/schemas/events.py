"""Requests and responses for user events."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.schemas.common import MAX_EVENTS, ResponseBase, Strict


class EventsRequest(Strict):
    """User events, cleaned by the same rules as event files. `timestamp` defaults to the current time."""

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

    events: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MAX_EVENTS,
        description="events with `user_id`, `item_id`, `type`; optional: `event_id`, `timestamp`, `value`, `query`, "
        "`request_id`",
    )


class EventStatus(BaseModel):
    """The result for one event. A pending event is stored and counts as soon as the catalogue has its item."""

    event_id: str = Field(description="id of the event; empty if the event was rejected")
    status: Literal["stored", "pending", "duplicate", "rejected"] = Field(description="result for this event")
    code: str = Field(description="error code of a rejected event, else empty")
    message: str = Field(description="error message of a rejected event, else empty")
    field: str = Field(description="invalid field of a rejected event, else empty")


class EventsResponse(ResponseBase):
    """One status per event. Stored events are durable and affect the next response."""

    events: list[EventStatus] = Field(description="results in the order of the request")
