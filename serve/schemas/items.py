"""Requests and answers about what is kept: events, users, live changes of items, releases."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.schemas.common import MAX_CHANGES, ItemId, ResponseBase, Strict


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


class ItemIdsRequest(Strict):
    """Items by id."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"item_ids": ["MUG-0031"]}]})

    item_ids: list[ItemId] = Field(min_length=1, max_length=MAX_CHANGES)


class ItemChangeStatus(BaseModel):
    """What became of one row. A rejected one says why; warnings tell what was repaired in others, or left out."""

    item_id: str
    status: Literal["created", "updated", "unchanged", "deleted", "unknown", "rejected"]
    code: str
    message: str
    field: str
    warnings: list[str]


class ChangesResponse(ResponseBase):
    """The rows as they came. What was taken is durable, and visible in every process within a second."""

    items: list[ItemChangeStatus]
