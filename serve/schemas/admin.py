"""Requests and responses for operators: caller, releases, catalogue report, activity, content policy."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.schemas.common import ItemId, ResponseBase, Strict
from serve.schemas.recommend import RecommendRequest
from serve.schemas.search import ItemsResponse, SearchRequest, SimilarRequest
from serve.security.api_keys import Scope


class CallerResponse(BaseModel):
    """Who calls: whether a key is needed here, and the name and scopes of the one that came."""

    request_id: str
    keys: bool
    name: str
    scopes: list[Scope]


class ImageQuery(Strict):
    """What may follow the `?` when a photo is asked for."""

    size: int = Field(320, ge=16, le=1024, description="pixels of the longer side, at most")
    number: int = Field(0, ge=0, le=999, description="which of the item's photos, from 0")


class PageQuery(Strict):
    """A part of a long list."""

    offset: int = Field(0, ge=0, le=100_000_000, description="how many to pass over")
    limit: int = Field(100, ge=0, le=1000, description="how many to answer with, at most")


class LatestQuery(Strict):
    """How many of the latest."""

    k: int = Field(50, ge=1, le=1000, description="how many, at most")


class ManifestResponse(ResponseBase):
    """All that a release says of itself: lineage, indexes with the curves they were chosen by, measured quality."""

    manifest: dict[str, Any]


class CompareRequest(Strict):
    """One question to two releases; exactly one of search, recommend, similar."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"releases": ["RELEASE", "RELEASE"], "search": {"text": "red shoe", "k": 5}}]},
    )

    releases: Annotated[list[ItemId], Field(min_length=2, max_length=2)]
    search: SearchRequest | None = None
    recommend: RecommendRequest | None = None
    similar: SimilarRequest | None = None

    @model_validator(mode="after")
    def _one(self) -> "CompareRequest":
        if sum(each is not None for each in (self.search, self.recommend, self.similar)) != 1:
            raise ValueError("give exactly one of search, recommend, similar")
        return self


class CompareResponse(ResponseBase):
    """The answers of both, in the order of the request."""

    answers: list[ItemsResponse]


class CatalogueReportResponse(ResponseBase):
    """What became of the last feed: the report of it, and a page of the rows that were rejected."""

    report: dict[str, Any]
    total: int
    rejects: list[dict[str, Any]]


class ActiveUser(BaseModel):
    """A user who was there lately, events of the latest that were looked at, and the last of them in epoch seconds."""

    user_id: str
    events: int
    last: float


class UsersResponse(ResponseBase):
    """Who was there last, the latest first."""

    users: list[ActiveUser]


class EventRate(BaseModel):
    """How many events of a type were in the hour that begins at `start` (ISO 8601, UTC)."""

    start: str
    type: str
    count: int


class FeatureDrift(BaseModel):
    """How far a feature of what is shown has moved since the release was made; population stability index."""

    feature: str
    psi: float
    alert: bool


class ActivityResponse(ResponseBase):
    """What goes on: events of the last 48 hours, drift as this process sees it, the A/B test, answers not logged."""

    events: list[EventRate]
    drift: list[FeatureDrift]
    experiment: dict[str, Any] | None
    answers_dropped: int


class HiddenItem(BaseModel):
    """An item that is there and not shown, and why."""

    item_id: str
    title: str | None
    reason: str


class ReviewResponse(ResponseBase):
    """What content review goes by, and what it hides."""

    words: list[str]
    categories: list[str]
    total: int
    hidden: list[HiddenItem]
