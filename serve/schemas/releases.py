"""Requests and responses for releases."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.schemas.common import ItemId, ResponseBase, Strict
from serve.schemas.recommend import RecommendRequest
from serve.schemas.search import ItemsResponse, SearchRequest, SimilarRequest


class ReleaseSummary(BaseModel):
    """A release on disk."""

    release: str = Field(description="name of the release")
    current: bool = Field(description="true for the active release")
    created_at: str = Field(description="creation time, ISO 8601")
    items: int = Field(description="number of items")
    spaces: dict[str, dict[str, Any]] = Field(description="index of each space: type, size, measured recall")


class ReleasesResponse(ResponseBase):
    """The releases on disk, newest first. `release` is the active one."""

    changes: dict[str, int] = Field(description="number of live changes on top of the active release, by kind")
    releases: list[ReleaseSummary] = Field(description="releases, newest first")


class ManifestResponse(ResponseBase):
    """The manifest of a release."""

    manifest: dict[str, Any] = Field(
        description="lineage, spaces, encoders, indexes with the curves they were chosen by, measured quality"
    )


class CompareRequest(Strict):
    """One request for two releases: exactly one of search, recommend, similar."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"releases": ["RELEASE", "RELEASE"], "search": {"text": "red shoe", "k": 5}}]},
    )

    releases: Annotated[list[ItemId], Field(min_length=2, max_length=2)] = Field(description="names of two releases")
    search: SearchRequest | None = Field(None, description="a search request")
    recommend: RecommendRequest | None = Field(None, description="a recommendation request")
    similar: SimilarRequest | None = Field(None, description="a request for similar items")

    @model_validator(mode="after")
    def _check_one_request(self) -> "CompareRequest":
        if sum(request is not None for request in (self.search, self.recommend, self.similar)) != 1:
            raise ValueError("give exactly one of search, recommend, similar")
        return self


class CompareResponse(ResponseBase):
    """The responses of both releases."""

    responses: list[ItemsResponse] = Field(description="responses in the order of `releases` in the request")
