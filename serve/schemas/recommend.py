"""Requests and responses for recommendations, candidates and ranking of external lists."""

from pydantic import BaseModel, ConfigDict, Field

from serve.core.fields import DEFAULT_FIELDS
from serve.schemas.common import (
    MAX_CANDIDATES,
    MAX_EXCLUDED,
    MAX_HISTORY,
    MAX_IDS,
    MAX_K,
    Fields,
    FilterObject,
    HistoryEvent,
    ItemId,
    K,
    ResponseBase,
    Strict,
    UserId,
)
from serve.schemas.search import ItemsResponse


class DomainRequest(Strict):
    """Between which domains a shopper is taken: by what was done in some, with items of others."""

    from_: list[str] = Field(
        [], alias="from", max_length=MAX_IDS, description="domains whose events count; without it those of all"
    )
    to: list[str] = Field([], max_length=MAX_IDS, description="domains that items come from; without it all")


class RecommendRequest(DomainRequest):
    """For a shopper who is known by id, or for one who is known by `history`, or by both, or by nothing."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"user_id": "u00001", "k": 5},
                {"history": [{"item_id": "SNK-0007"}, {"item_id": "SNK-0012", "type": "cart"}], "k": 5},
            ]
        },
    )

    user_id: UserId | None = Field(None, description="whose events count; an unknown one gets what is popular and new")
    history: list[HistoryEvent] = Field(
        [], max_length=MAX_HISTORY, description="what was done, the latest last; after what is known of user_id"
    )
    filter: FilterObject = Field({})
    exclude: list[ItemId] = Field([], max_length=MAX_EXCLUDED, description="items that must not be in the answer")
    k: K = 10
    fields: Fields = Field(DEFAULT_FIELDS)
    explain: bool = Field(False, description="whether each item comes with reasons")
    diversity: float = Field(0.0, ge=0, le=1, description="how much it counts that the items are not alike")
    explore: bool | None = Field(
        None, description="whether to show what may be better too; without it as the shop has set"
    )
    log: bool = Field(True, description="whether what is shown is logged and learned from; not for who only looks on")


class CandidatesRequest(DomainRequest):
    """As recommend, for another service to choose from: thousands, with what each source says of each."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"user_id": "u00001", "k": 100}]})

    user_id: UserId | None = None
    history: list[HistoryEvent] = Field([], max_length=MAX_HISTORY)
    filter: FilterObject = Field({})
    exclude: list[ItemId] = Field([], max_length=MAX_EXCLUDED)
    k: int = Field(500, ge=1, le=MAX_CANDIDATES, strict=True)


class CandidateItem(BaseModel):
    """A candidate: its blended score, its score in every source that had anything to go by, who proposed it."""

    item_id: str
    score: float
    retriever_scores: dict[str, float]
    proposed_by: list[str]


class CandidatesResponse(ResponseBase):
    """Candidates, best first."""

    items: list[CandidateItem]


class RankResponse(ItemsResponse):
    """Items, best first; `unknown` are those that are not there."""

    unknown: list[str]


class RankRequest(Strict):
    """Items from elsewhere, to be put into the order that suits a shopper."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user_id": "u00001", "item_ids": ["SNK-0007", "SNK-0012", "MUG-0031"]}]},
    )

    item_ids: list[ItemId] = Field(min_length=1, max_length=MAX_K)
    user_id: UserId | None = Field(None, description="whose events count")
    history: list[HistoryEvent] = Field([], max_length=MAX_HISTORY, description="what was done, the latest last")
    fields: Fields = Field(DEFAULT_FIELDS)
    explain: bool = Field(False, description="whether each item comes with reasons")
