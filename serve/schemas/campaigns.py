"""Requests and answers of campaigns: audiences, and copy for items."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serve.schemas.common import ItemId, Photo, ResponseBase, Strict

MAX_AUDIENCE = 100_000


class CapRequest(Strict):
    """Nobody is reached more than so many times in so many days, by whichever campaign."""

    times: int = Field(ge=1, le=1000)
    days: float = Field(gt=0, le=3650)


class AudienceRequest(Strict):
    """Of an item, or of a creative of words and a photo."""

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

    item_id: ItemId | None = None
    text: str | None = Field(None, max_length=2000, description="what the creative says")
    image: Photo | None = Field(None, description="its photo, in base64")
    size: int = Field(100, ge=1, le=MAX_AUDIENCE, strict=True, description="how many shoppers, at most")
    campaign: str = Field("", max_length=200, description="what contacts are put down to, and hold-outs are drawn by")
    cap: CapRequest | None = Field(None, description="who was reached so often is left out")
    holdout: float = Field(0.0, ge=0, le=0.5, description="share that is told apart and not to be reached")
    again: bool = Field(False, description="whether who did something to the item already is in it too")
    record: bool = Field(False, description="whether this reaches the members: it counts for the caps of later ones")


class AudienceMember(BaseModel):
    """A shopper: the cosine to what is offered, the probability of acting on it, whether to be left for comparison."""

    user_id: str
    score: float
    probability: float
    held_out: bool


class CurvePoint(BaseModel):
    """How many acts can be expected of the first so many members."""

    size: int
    expected: float


class AudienceResponse(ResponseBase):
    """The members, the likeliest first, and how many of all shoppers were left out, and why."""

    members: list[AudienceMember]
    users: int
    opted_out: int
    capped: int
    had: int
    curve: list[CurvePoint]


class CopyRequest(Strict):
    """What kind of text, in which language, and to whom."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"style": "ad", "language": "en", "segment": "runners"}]}
    )

    style: Literal["title", "reason", "ad"] = "reason"
    language: Literal["en", "de", "fr", "es", "it"] = "en"
    segment: str = Field("", max_length=40, pattern=r"^[\w \-']*$", description="the shoppers it speaks to")


class Refusal(BaseModel):
    """What another writer's text stated without support."""

    kind: str
    words: str


class CopyResponse(ResponseBase):
    """A text, who wrote it, and what another writer's was refused for."""

    item_id: str
    text: str
    by: str
    refused: list[Refusal]
