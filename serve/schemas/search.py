"""What requests and answers look like; limits, examples and descriptions are what the OpenAPI page shows."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Json

from serve.core.fields import DEFAULT_FIELDS
from serve.schemas.common import (
    MAX_EXCLUDED,
    MAX_HISTORY,
    MAX_IDS,
    MAX_K,
    Fields,
    FilterObject,
    HistoryEvent,
    ItemId,
    K,
    Personal,
    Photo,
    ResponseBase,
    Strict,
    UserId,
)


class Weights(Strict):
    """How much each part of a query counts; of a disliked item, how much it pushes away."""

    text: float = Field(1.0, ge=0, le=100)
    image: float = Field(1.0, ge=0, le=100)
    like: float = Field(1.0, ge=0, le=100)
    unlike: float = Field(0.5, ge=0, le=100)


class PersonalizedRequest(Strict):
    """For whom a search is; without any of it, for everybody alike."""

    user_id: UserId | None = Field(None, description="whose taste counts too, where there is a scorer")
    history: list[HistoryEvent] = Field(
        [], max_length=MAX_HISTORY, description="what was done, the latest last; after what is known of user_id"
    )
    personal: Personal = None
    explain: bool = Field(False, description="whether each item comes with reasons, for a shopper's search")


class SearchRequest(PersonalizedRequest):
    """Any of words, a photo and items to look like; at least one of them."""

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

    text: str | None = Field(None, max_length=2000, description="words, in whatever language the encoder knows")
    image: Photo | None = Field(None, description="a photo in base64 (or send it as a multipart file)")
    like: list[ItemId] = Field([], max_length=MAX_IDS, description="items the answer should resemble")
    unlike: list[ItemId] = Field([], max_length=MAX_IDS, description="items the answer should not resemble")
    weights: Weights = Weights()
    filter: FilterObject = Field({})
    exclude: list[ItemId] = Field([], max_length=MAX_EXCLUDED, description="items that must not be in the answer")
    spaces: list[str] = Field([], max_length=8, description="spaces to search; without it all that the query can enter")
    understand: bool = Field(
        True, description="whether prices in the words (under $50) become a filter, unless there is one on prices"
    )
    facets: list[str] = Field(
        [], max_length=16, description="columns or attributes of which the values are counted: category, brand, price …"
    )
    k: K = 10
    fields: Fields = Field(DEFAULT_FIELDS)


class SuggestQuery(Strict):
    """What may follow the `?` when words are begun."""

    q: str = Field(max_length=200, description="what was typed so far")
    k: int = Field(8, ge=1, le=50, description="how many suggestions to answer with")


class SimilarRequest(PersonalizedRequest):
    """Items like all of the given ones together."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"item_ids": ["SNK-0007", "SNK-0012"], "k": 5}]}
    )

    item_ids: list[ItemId] = Field(min_length=1, max_length=MAX_IDS)
    space: str | None = Field(None, description="one space; without it the fused neighbours of all")
    filter: FilterObject = Field({})
    k: K = 10
    fields: Fields = Field(DEFAULT_FIELDS)


class NeighboursQuery(Strict):
    """What may follow the `?` when one item's neighbours are asked for."""

    user_id: UserId | None = Field(None, description="whose taste counts too, where there is a scorer")
    personal: Personal = None
    explain: bool = Field(False, description="whether each item comes with reasons, for a shopper's search")

    k: int = Field(10, ge=1, le=MAX_K, description="how many items to answer with")
    space: str | None = Field(None, description="one space; without it the fused neighbours of all")
    filter: Json[dict[str, Any]] = Field({}, description="conditions as in a search, as JSON")
    fields: Fields = Field(
        DEFAULT_FIELDS, description="catalogue columns that come with each item; repeat it for several"
    )


class RelatedQuery(Strict):
    """What may follow the `?` when what goes with an item is asked for."""

    relation: str | None = Field(None, max_length=200, description="one relation of the shop's table; without it all")
    kind: Literal["complement", "substitute", "related"] | None = Field(
        None, description="what goes with the item, what may be taken for it, or what is merely related"
    )
    k: int = Field(10, ge=1, le=MAX_K, description="how many items to answer with")
    filter: Json[dict[str, Any]] = Field({}, description="conditions as in a search, as JSON")
    fields: Fields = Field(DEFAULT_FIELDS, description="catalogue columns that come with each item")


class EventContribution(BaseModel):
    """What one of the shopper's own acts added to a score."""

    item_id: str
    type: str
    value: float


class ItemReasons(BaseModel):
    """Why an item has its score: `base` + all `parts` + all values of `history` is the score; `sentence` says it."""

    base: float
    parts: dict[str, float]
    history: list[EventContribution]
    sentence: str


class ResponseItem(BaseModel):
    """An item with its score, its cosine in each space asked, and the requested fields.

    With one space the score is the cosine. Fused, it is the weighted mean over the spaces of how many standard
    deviations the item lies above a random item.

    Where a scorer ranked, `probabilities` are how likely the shopper clicks on the item, puts it into the cart, buys
    it; the
    score is then their sum, each times what it is worth to the shop. `rules` are the shop's own that moved the item.
    """

    item_id: str
    score: float
    retriever_scores: dict[str, float]
    title: str | None = None
    description: str | None = None
    category: str | None = None
    brand: str | None = None
    price: float | None = None
    currency: str | None = None
    image: str | None = None
    images: list[str] = []
    attributes: dict[str, list[str]] = {}
    available: bool | None = None
    domain: str | None = None
    updated_at: float | None = None
    probabilities: dict[str, float] | None = None
    reasons: ItemReasons | None = None
    rules: list[str] = []


class ItemsResponse(ResponseBase):
    """Items, best first; `ranked_by` says whether a scorer decided the order or the sources alone."""

    ranked_by: Literal["scorer", "retrievers"]
    items: list[ResponseItem]


class QueryInterpretation(BaseModel):
    """What the words of a query were taken to say: what is looked for, the conditions in them, and corrections."""

    text: str | None
    filter: dict[str, Any]
    corrected: dict[str, str]


class FacetValue(BaseModel):
    """A value and how many items have it; of prices `from` and `to`."""

    model_config = ConfigDict(extra="allow")

    count: int


class SearchResponse(ItemsResponse):
    """Items, best first, with how the words were understood, and the facets that were asked for."""

    understood: QueryInterpretation
    facets: dict[str, list[FacetValue]]


class SuggestResponse(ResponseBase):
    """What shoppers search for and titles say that begins so, the most frequent first."""

    suggestions: list[str]


class ItemResponse(ResponseBase):
    """One item with all its fields."""

    item: dict[str, Any]
