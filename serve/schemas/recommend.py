"""Requests and responses for recommendations, candidates and ranking of external lists."""

from pydantic import BaseModel, ConfigDict, Field

from serve.core.fields import DEFAULT_FIELDS
from serve.schemas.common import (
    MAX_CANDIDATES,
    MAX_EXCLUDED,
    MAX_IDS,
    MAX_K,
    Fields,
    FilterObject,
    History,
    ItemId,
    K,
    ResponseBase,
    Strict,
    UserId,
)
from serve.schemas.search import ItemsResponse


class DomainRequest(Strict):
    """Domains to take events from and to recommend items of."""

    from_: list[str] = Field(
        [], alias="from", max_length=MAX_IDS, description="domains whose events count; default: all"
    )
    to: list[str] = Field([], max_length=MAX_IDS, description="domains to recommend items of; default: all")


class RecommendRequest(DomainRequest):
    """A user by `user_id`, by `history`, or both. Without either, popular and new items are recommended."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"user_id": "u00001", "k": 5},
                {"history": [{"item_id": "SNK-0007"}, {"item_id": "SNK-0012", "type": "cart"}], "k": 5},
            ]
        },
    )

    user_id: UserId | None = Field(None, description="user to recommend to; an unknown user gets popular and new items")
    history: History = Field([])
    filter: FilterObject = Field({})
    exclude: list[ItemId] = Field([], max_length=MAX_EXCLUDED, description="items to exclude")
    k: K = 10
    fields: Fields = DEFAULT_FIELDS
    explain: bool = Field(False, description="return reasons with each item")
    diversity: float = Field(0.0, ge=0, le=1, description="weight of the diversity of the list, from 0 to 1")
    explore: bool | None = Field(
        None, description="explore: include items of uncertain value; default: the setting `explore.share`"
    )
    log: bool = Field(True, description="log impressions and learn from them; set to false for previews and tests")


class CandidatesRequest(DomainRequest):
    """A user, and the number of candidates for an external ranker."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"user_id": "u00001", "k": 100}]})

    user_id: UserId | None = Field(None, description="user to retrieve candidates for")
    history: History = Field([])
    filter: FilterObject = Field({})
    exclude: list[ItemId] = Field([], max_length=MAX_EXCLUDED, description="items to exclude")
    k: int = Field(500, ge=1, le=MAX_CANDIDATES, strict=True, description="number of candidates to return")


class CandidateItem(BaseModel):
    """A candidate."""

    item_id: str = Field(description="id of the item")
    score: float = Field(description="weighted sum of the retriever scores")
    retriever_scores: dict[str, float] = Field(
        description="score by retriever, each in its own unit; retrievers without data for the user are missing"
    )
    proposed_by: list[str] = Field(description="retrievers that proposed the item")


class CandidatesResponse(ResponseBase):
    """Candidates, best first."""

    items: list[CandidateItem] = Field(description="candidates, best first")


class RankResponse(ItemsResponse):
    """The ranked items, best first."""

    unknown: list[str] = Field(description="requested ids that are not in the catalogue")


class RankRequest(Strict):
    """A list of items to rank for a user."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user_id": "u00001", "item_ids": ["SNK-0007", "SNK-0012", "MUG-0031"]}]},
    )

    item_ids: list[ItemId] = Field(min_length=1, max_length=MAX_K, description="items to rank")
    user_id: UserId | None = Field(None, description="user to rank for")
    history: History = Field([])
    fields: Fields = DEFAULT_FIELDS
    explain: bool = Field(False, description="return reasons with each item")
