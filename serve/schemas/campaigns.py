"""Requests and responses for campaigns: audiences, and texts for items."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.schemas.common import ItemId, Photo, ResponseBase, Strict

MAX_AUDIENCE = 100_000


class CapRequest(Strict):
    """A frequency cap over all campaigns: at most `times` contacts per user within `days`."""

    times: int = Field(ge=1, le=1000, description="maximum number of contacts")
    days: float = Field(gt=0, le=3650, description="length of the window in days")


class AudienceRequest(Strict):
    """An audience for an item, or for a creative of text and a photo."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"item_id": "SNK-0007", "size": 20},
                {
                    "text": "warm hoodies",
                    "size": 20,
                    "campaign": "autumn",
                    "cap": {"times": 2, "days": 7},
                    "holdout": 0.1,
                },
            ]
        },
    )

    item_id: ItemId | None = Field(None, description="the advertised item")
    text: str | None = Field(None, max_length=2000, description="text of the creative")
    image: Photo | None = Field(None, description="photo of the creative, in base64")
    size: int = Field(100, ge=1, le=MAX_AUDIENCE, strict=True, description="maximum number of users")
    campaign: str = Field(
        "", max_length=200, description="name of the campaign; contacts and hold-out groups belong to it"
    )
    cap: CapRequest | None = Field(None, description="frequency cap; users who reached it are excluded")
    holdout: float = Field(0.0, ge=0, le=0.5, description="share of the members to hold out for comparison")
    again: bool = Field(False, description="include users who already interacted with the item")
    record: bool = Field(False, description="record contacts with the members, which count for later frequency caps")


class AudienceUser(BaseModel):
    """A user of an audience."""

    user_id: str = Field(description="id of the user")
    score: float = Field(description="cosine of the user to the item or creative")
    probability: float = Field(description="predicted probability of an interaction")
    held_out: bool = Field(description="true for a held-out user: do not contact, use for comparison")


class CurvePoint(BaseModel):
    """Expected interactions of the first `size` members."""

    size: int = Field(description="number of members")
    expected: float = Field(description="expected number of interactions")


class AudienceResponse(ResponseBase):
    """An audience, and the numbers of excluded users."""

    members: list[AudienceUser] = Field(description="members, the highest probability first")
    users: int = Field(description="number of users considered")
    opted_out: int = Field(description="users excluded because they opted out of personalization or marketing")
    capped: int = Field(description="users excluded by the frequency cap")
    already_interacted: int = Field(description="users excluded because they already interacted with the item")
    curve: list[CurvePoint] = Field(description="expected interactions by audience size")


class CopyRequest(Strict):
    """Kind, language and audience of a text."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"style": "ad", "language": "en", "segment": "runners"}]}
    )

    style: Literal["title", "reason", "ad"] = Field("reason", description="kind of text")
    language: Literal["en", "de", "fr", "es", "it"] = Field("en", description="language of the text")
    segment: str = Field("", max_length=40, pattern=r"^[\w \-']*$", description="user segment the text addresses")


class Refusal(BaseModel):
    """An unsupported statement in a rejected text."""

    kind: str = Field(description="kind of the statement")
    words: str = Field(description="the statement")


class CopyResponse(ResponseBase):
    """A text for an item. A rejected text of a language model is replaced by one from a template."""

    item_id: str = Field(description="id of the item")
    text: str = Field(description="the text")
    by: str = Field(description="generator of the text: a template or a model")
    refused: list[Refusal] = Field(description="unsupported statements for which a model's text was rejected")
