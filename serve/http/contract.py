"""What requests and answers look like; limits, examples and descriptions are what the OpenAPI page shows."""

from base64 import b64decode
from binascii import Error as NotBase64
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, EncodedBytes, EncoderProtocol, Field, Json
from pydantic_core import PydanticCustomError

MAX_K = 1000
MAX_IDS = 100
MAX_EXCLUDED = 20_000
MAX_CHANGES = 1000
MAX_EVENTS = 1000
MAX_HISTORY = 200
MAX_CANDIDATES = 5000

ItemId = Annotated[str, Field(min_length=1, max_length=512)]
UserId = Annotated[str, Field(min_length=1, max_length=512)]
K = Annotated[int, Field(ge=1, le=MAX_K, strict=True, description="how many items to answer with")]
FieldName = Literal[
    "title",
    "description",
    "category",
    "brand",
    "price",
    "currency",
    "image",
    "images",
    "attributes",
    "available",
    "domain",
    "updated_at",
]
Fields = Annotated[list[FieldName], Field(max_length=12, description="catalogue columns that come with each item")]
FilterObject = Annotated[
    dict[str, Any],
    Field(
        description="conditions on the catalogue's columns that all have to hold: a value or eq, in, gt, gte, lt, lte; "
        "`not` takes conditions, `any` a list of them",
        examples=[{"category": "Shoes", "price": {"lte": 50}, "not": {"brand": {"in": ["A", "B"]}}}],
    ),
]
DEFAULT_FIELDS: list[FieldName] = ["title", "category", "brand", "price", "currency", "image"]


class Base64(EncoderProtocol):
    """Base64 that refuses what is none; pydantic's own skips it and hands on garbage. Line breaks are fine."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        try:
            return b64decode(data.translate(None, b" \t\r\n"), validate=True)
        except NotBase64 as error:
            raise PydanticCustomError(
                "base64", "not base64: send the photo's bytes in standard base64, without a data: prefix"
            ) from error

    @classmethod
    def get_json_format(cls) -> Literal["base64"]:
        return "base64"


Personal = Annotated[
    float | None,
    Field(ge=0, le=10, description="how much taste counts for each one of relevance; without it as the shop has set"),
]
Photo = Annotated[bytes, EncodedBytes(encoder=Base64)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Weights(Strict):
    """How much each part of a query counts; of a disliked item, how much it pushes away."""

    text: float = Field(1.0, ge=0, le=100)
    image: float = Field(1.0, ge=0, le=100)
    like: float = Field(1.0, ge=0, le=100)
    unlike: float = Field(0.5, ge=0, le=100)


class HistoryEvent(Strict):
    """Something that a shopper without an id did just now."""

    item_id: ItemId
    type: Literal["view", "click", "cart", "purchase", "rating", "dislike"] = "click"
    timestamp: float | str | None = Field(None, description="epoch seconds or ISO 8601; without it, the events' order")
    value: float | None = Field(None, description="of a rating; of an impression how likely it was")


class ForShopper(Strict):
    """For whom a search is; without any of it, for everybody alike."""

    user_id: UserId | None = Field(None, description="whose taste counts too, where there is a scorer")
    history: list[HistoryEvent] = Field(
        [], max_length=MAX_HISTORY, description="what was done, the latest last; after what is known of user_id"
    )
    personal: Personal = None
    explain: bool = Field(False, description="whether each item comes with reasons, for a shopper's search")


class AcrossDomains(Strict):
    """Between which domains a shopper is taken: by what was done in some, with items of others."""

    from_: list[str] = Field(
        [], alias="from", max_length=MAX_IDS, description="domains whose events count; without it those of all"
    )
    to: list[str] = Field([], max_length=MAX_IDS, description="domains that items come from; without it all")


class SearchRequest(ForShopper):
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
    filter: FilterObject = {}
    exclude: list[ItemId] = Field([], max_length=MAX_EXCLUDED, description="items that must not be in the answer")
    spaces: list[str] = Field([], max_length=8, description="spaces to search; without it all that the query can enter")
    understand: bool = Field(
        True, description="whether prices in the words (under $50) become a filter, unless there is one on prices"
    )
    facets: list[str] = Field(
        [], max_length=16, description="columns or attributes of which the values are counted: category, brand, price …"
    )
    k: K = 10
    fields: Fields = DEFAULT_FIELDS


class SuggestQuery(Strict):
    """What may follow the `?` when words are begun."""

    q: str = Field(max_length=200, description="what was typed so far")
    k: int = Field(8, ge=1, le=50, description="how many suggestions to answer with")


class SimilarRequest(ForShopper):
    """Items like all of the given ones together."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"item_ids": ["SNK-0007", "SNK-0012"], "k": 5}]}
    )

    item_ids: list[ItemId] = Field(min_length=1, max_length=MAX_IDS)
    space: str | None = Field(None, description="one space; without it the fused neighbours of all")
    filter: FilterObject = {}
    k: K = 10
    fields: Fields = DEFAULT_FIELDS


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


class RecommendRequest(AcrossDomains):
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
    filter: FilterObject = {}
    exclude: list[ItemId] = Field([], max_length=MAX_EXCLUDED, description="items that must not be in the answer")
    k: K = 10
    fields: Fields = DEFAULT_FIELDS
    explain: bool = Field(False, description="whether each item comes with reasons")
    diversity: float = Field(0.0, ge=0, le=1, description="how much it counts that the items are not alike")
    explore: bool | None = Field(
        None, description="whether to show what may be better too; without it as the shop has set"
    )
    log: bool = Field(True, description="whether what is shown is logged and learned from; not for who only looks on")


class CandidatesRequest(AcrossDomains):
    """As recommend, for another service to choose from: thousands, with what each source says of each."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"user_id": "u00001", "k": 100}]})

    user_id: UserId | None = None
    history: list[HistoryEvent] = Field([], max_length=MAX_HISTORY)
    filter: FilterObject = {}
    exclude: list[ItemId] = Field([], max_length=MAX_EXCLUDED)
    k: int = Field(500, ge=1, le=MAX_CANDIDATES, strict=True)


class Answered(BaseModel):
    """What every answer has: the id that it is logged by, the release that answered, and how long that took.

    `partial` names what it goes without, where something did not answer in time: the `scorer`, a space, `events`.
    """

    request_id: str
    release: str
    took_ms: float
    partial: list[str] = []


class CandidateItem(BaseModel):
    """A candidate: its blended score, its score in every source that had anything to go by, who proposed it."""

    item_id: str
    score: float
    sources: dict[str, float]
    proposed_by: list[str]


class CandidatesAnswer(Answered):
    """Candidates, best first."""

    items: list[CandidateItem]


class BecauseOfEvent(BaseModel):
    """What one of the shopper's own acts added to a score."""

    item_id: str
    type: str
    value: float


class ReasonsOfItem(BaseModel):
    """Why an item has its score: `base` + all `parts` + all values of `history` is the score; `sentence` says it."""

    base: float
    parts: dict[str, float]
    history: list[BecauseOfEvent]
    sentence: str


class AnswerItem(BaseModel):
    """An item with its score, its cosine in each space asked, and the requested fields.

    With one space the score is the cosine. Fused, it is the weighted mean over the spaces of how many standard
    deviations the item lies above a random item.

    Where a scorer ranked, `chances` are how likely the shopper clicks on the item, puts it into the cart, buys it; the
    score is then their sum, each times what it is worth to the shop. `rules` are the shop's own that moved the item.
    """

    item_id: str
    score: float
    sources: dict[str, float]
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
    chances: dict[str, float] | None = None
    reasons: ReasonsOfItem | None = None
    rules: list[str] = []


class Answer(Answered):
    """Items, best first; `ranked_by` says whether a scorer decided the order or the sources alone."""

    ranked_by: Literal["scorer", "sources"]
    items: list[AnswerItem]


class Understanding(BaseModel):
    """What the words of a query were taken to say: what is looked for, the conditions in them, and corrections."""

    text: str | None
    filter: dict[str, Any]
    corrected: dict[str, str]


class FacetValue(BaseModel):
    """A value and how many items have it; of prices `from` and `to`."""

    model_config = ConfigDict(extra="allow")

    count: int


class SearchAnswer(Answer):
    """Items, best first, with how the words were understood, and the facets that were asked for."""

    understood: Understanding
    facets: dict[str, list[FacetValue]]


class SuggestAnswer(Answered):
    """What shoppers search for and titles say that begins so, the most frequent first."""

    suggestions: list[str]


class RankAnswer(Answer):
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
    fields: Fields = DEFAULT_FIELDS
    explain: bool = Field(False, description="whether each item comes with reasons")


class ItemAnswer(Answered):
    """One item with all its fields."""

    item: dict[str, Any]


class ErrorBody(BaseModel):
    code: str
    message: str
    field: str


class ErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: ErrorBody
