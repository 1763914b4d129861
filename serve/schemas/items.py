"""Requests and responses for live changes of items."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.schemas.common import MAX_CHANGES, ItemId, ResponseBase, Strict


class ItemsRequest(Strict):
    """Whole items with the catalogue's field names, cleaned by the same rules as a feed."""

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

    items: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_CHANGES, description="whole items")


class PatchesRequest(Strict):
    """Changed fields of items."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"items": [{"item_id": "MUG-0031", "price": 7.9, "available": False}]}]},
    )

    items: list[dict[str, Any]] = Field(
        min_length=1,
        max_length=MAX_CHANGES,
        description="`item_id` and the changed fields: price, currency, available, domain, updated_at",
    )


class ItemIdsRequest(Strict):
    """Ids of items."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"item_ids": ["MUG-0031"]}]})

    item_ids: list[ItemId] = Field(min_length=1, max_length=MAX_CHANGES, description="ids of the items")


class ImageQuery(Strict):
    """Query parameters of an item's photo."""

    size: int = Field(320, ge=16, le=1024, description="maximum length of the longer side in pixels")
    number: int = Field(0, ge=0, le=999, description="which of the item's photos, from 0")


class ItemChangeStatus(BaseModel):
    """The result for one row."""

    item_id: str = Field(description="id of the item; empty if the row has no valid id")
    status: Literal["created", "updated", "unchanged", "deleted", "unknown", "rejected"] = Field(
        description="result for this row"
    )
    code: str = Field(description="error code of a rejected row, else empty")
    message: str = Field(description="error message of a rejected row, else empty")
    field: str = Field(description="invalid field of a rejected row, else empty")
    warnings: list[str] = Field(description="values that were repaired or omitted in an accepted row")


class ChangesResponse(ResponseBase):
    """One status per row. Accepted changes are durable and visible in every process within 1 second."""

    items: list[ItemChangeStatus] = Field(description="results in the order of the request")
