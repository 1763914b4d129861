"""Requests and responses for search, similar items, related items and autocompletion."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json

from serve.core.fields import DEFAULT_FIELDS
from serve.schemas.common import (
    MAX_EXCLUDED,
    MAX_IDS,
    MAX_K,
    Fields,
    FilterObject,
    History,
    ItemId,
    K,
    Personalization,
    Photo,
    ResponseBase,
    Strict,
    UserId,
)

JSON_FILTER: Any = Field({}, description="conditions as in a search, as JSON", json_schema_extra={"default": "{}"})


class Weights(Strict):
    """Weights of the parts of a query."""

    text: float = Field(1.0, ge=0, le=100, description="weight of the text")
    image: float = Field(1.0, ge=0, le=100, description="weight of the photo")
    like: float = Field(1.0, ge=0, le=100, description="weight of each liked item")
    unlike: float = Field(0.5, ge=0, le=100, description="weight of each disliked item")


class PersonalizedRequest(Strict):
    """Fields that personalize a search. Without `user_id` and `history`, the search is not personalized."""

    user_id: UserId | None = Field(None, description="user to personalize for; needs a scorer in the release")
    history: History = Field([])
    personalization: Personalization = None
    explain: bool = Field(False, description="return reasons with each item of a personalized search")


class SearchRequest(PersonalizedRequest):
    """A search by text, photo and example items. At least one of them is required."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"text": "red striped sneaker", "k": 5},
                {
                    "text": "for rainy days",
                    "like": ["SNK-0007"],
                    "unlike": ["MUG-0031"],
                    "filter": {"price": {"lte": 50}},
                    "k": 5,
                    "fields": ["title", "price"],
                },
            ]
        },
    )

    text: str | None = Field(None, max_length=2000, description="query text, in any language of the text encoder")
    image: Photo | None = Field(None, description="photo in base64; alternatively send it as a multipart file")
    like: list[ItemId] = Field([], max_length=MAX_IDS, description="items that results should resemble")
    unlike: list[ItemId] = Field([], max_length=MAX_IDS, description="items that results should not resemble")
    weights: Weights = Field(Weights(), description="weights of the parts of the query")
    filter: FilterObject = Field({})
    exclude: list[ItemId] = Field([], max_length=MAX_EXCLUDED, description="items to exclude from the results")
    spaces: list[str] = Field([], max_length=8, description="spaces to search; default: all that the query can use")
    understand: bool = Field(
        True,
        description="turn prices in the text, as `under $50`, into a filter, unless `filter` has a price",
    )
    facets: list[str] = Field(
        [], max_length=16, description="columns or attributes to count values of: category, brand, price …"
    )
    k: K = 10
    fields: Fields = DEFAULT_FIELDS


class SuggestQuery(Strict):
    """Query parameters of autocompletion."""

    q: str = Field(max_length=200, description="beginning of a query")
    k: int = Field(8, ge=1, le=50, description="number of suggestions to return")


class SimilarRequest(PersonalizedRequest):
    """Items to find neighbours of."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"item_ids": ["SNK-0007", "SNK-0012"], "k": 5}]}
    )

    item_ids: list[ItemId] = Field(
        min_length=1, max_length=MAX_IDS, description="items that results should resemble, all together"
    )
    space: str | None = Field(None, description="space to search; default: fuse all spaces")
    filter: FilterObject = Field({})
    k: K = 10
    fields: Fields = DEFAULT_FIELDS


class NeighboursQuery(Strict):
    """Query parameters of similar items."""

    user_id: UserId | None = Field(None, description="user to personalize for; needs a scorer in the release")
    personalization: Personalization = None
    explain: bool = Field(False, description="return reasons with each item of a personalized search")
    k: int = Field(10, ge=1, le=MAX_K, description="number of items to return")
    space: str | None = Field(None, description="space to search; default: fuse all spaces")
    filter: Json[dict[str, Any]] = JSON_FILTER
    fields: Fields = DEFAULT_FIELDS


class RelatedQuery(Strict):
    """Query parameters of related items."""

    relation: str | None = Field(None, max_length=200, description="relation of the shop's table; default: all")
    kind: Literal["complement", "substitute", "related"] | None = Field(
        None, description="kind of relation: complementary items, substitutes, or other related items; default: all"
    )
    k: int = Field(10, ge=1, le=MAX_K, description="number of items to return")
    filter: Json[dict[str, Any]] = JSON_FILTER
    fields: Fields = DEFAULT_FIELDS


class EventContribution(BaseModel):
    """Contribution of one of the user's events to a score."""

    item_id: str = Field(description="item of the event")
    type: str = Field(description="type of the event")
    value: float = Field(description="contribution to the score")


class ItemReasons(BaseModel):
    """Explanation of a score: the sum of `base`, all `parts`, and all values of `history` is the score."""

    base: float = Field(description="score without any contribution")
    parts: dict[str, float] = Field(description="contribution of each feature group")
    history: list[EventContribution] = Field(description="contributions of the user's events")
    sentence: str = Field(description="explanation in one sentence")


class ResponseItem(BaseModel):
    """An item of a result, with the requested catalogue fields.

    In one space, `score` is the cosine. Fused over spaces, it is the weighted mean of the item's distance above a
    random item, in standard deviations. With a scorer, it is the sum of `probabilities`, each times the value of the
    interaction to the shop.
    """

    item_id: str = Field(description="id of the item")
    score: float = Field(description="score; comparable within one response only")
    retriever_scores: dict[str, float] = Field(
        description="score by space, as cosine, or by retriever, in its own unit; `keywords` is BM25"
    )
    title: str | None = Field(None, description="title")
    description: str | None = Field(None, description="description")
    category: str | None = Field(None, description="category path, as `Shoes/Sneakers`")
    brand: str | None = Field(None, description="brand")
    price: float | None = Field(None, description="price in `currency`")
    currency: str | None = Field(None, description="currency, ISO 4217")
    image: str | None = Field(None, description="photo that matches best, else the first")
    images: list[str] = Field([], description="all photos")
    attributes: dict[str, list[str]] = Field({}, description="values by attribute")
    available: bool | None = Field(None, description="true if the item can be bought")
    domain: str | None = Field(None, description="domain, as a shop or a market")
    updated_at: float | None = Field(None, description="time of the last update, epoch seconds")
    probabilities: dict[str, float] | None = Field(
        None, description="predicted probability by interaction: click, cart, purchase; only with a scorer"
    )
    reasons: ItemReasons | None = Field(None, description="explanation of the score, if requested")
    rules: list[str] = Field([], description="merchandising rules that moved the item")


class ItemsResponse(ResponseBase):
    """Items, best first."""

    ranked_by: Literal["scorer", "retrievers"] = Field(
        description="origin of the order: the scorer, or the scores of spaces and retrievers alone"
    )
    items: list[ResponseItem] = Field(description="items, best first")


class InterpretedQuery(BaseModel):
    """Interpretation of a query text."""

    text: str | None = Field(description="text that is searched, without the conditions")
    filter: dict[str, Any] = Field(description="conditions found in the text")
    corrected: dict[str, str] = Field(description="corrected words by the words as sent")


class FacetValue(BaseModel):
    """A value and its number of items; for prices, a range with `from` and `to`."""

    model_config = ConfigDict(extra="allow")

    count: int = Field(description="number of items")


class SearchResponse(ItemsResponse):
    """Items, best first, with the interpretation of the query and the requested facets."""

    understood: InterpretedQuery = Field(description="interpretation of the query text")
    facets: dict[str, list[FacetValue]] = Field(description="values by requested facet, the most frequent first")


class SuggestResponse(ResponseBase):
    """Completions of a query."""

    suggestions: list[str] = Field(description="completions, the most frequent first")


class ItemResponse(ResponseBase):
    """One item."""

    item: dict[str, Any] = Field(description="the item with all catalogue fields")
