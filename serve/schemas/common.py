"""Types, limits and base models that all requests and responses share."""

from base64 import b64decode
from binascii import Error as NotBase64
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, EncodedBytes, EncoderProtocol, Field
from pydantic_core import PydanticCustomError

from serve.core.fields import FieldName

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
Fields = Annotated[list[FieldName], Field(max_length=12, description="catalogue columns that come with each item")]
FilterObject = Annotated[
    dict[str, Any],
    Field(
        description="conditions on the catalogue's columns that all have to hold: a value or eq, in, gt, gte, lt, lte; "
        "`not` takes conditions, `any` a list of them",
        examples=[{"category": "Shoes", "price": {"lte": 50}, "not": {"brand": {"in": ["A", "B"]}}}],
    ),
]


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


class HistoryEvent(Strict):
    """Something that a shopper without an id did just now."""

    item_id: ItemId
    type: Literal["view", "click", "cart", "purchase", "rating", "dislike"] = "click"
    timestamp: float | str | None = Field(None, description="epoch seconds or ISO 8601; without it, the events' order")
    value: float | None = Field(None, description="of a rating; of an impression how likely it was")


class ResponseBase(BaseModel):
    """What every answer has: the id that it is logged by, the release that answered, and how long that took.

    `partial` names what it goes without, where something did not answer in time: the `scorer`, a space, `events`.
    """

    request_id: str
    release: str
    took_ms: float
    partial: list[str] = []


class ErrorBody(BaseModel):
    code: str
    message: str
    field: str


class ErrorEnvelope(BaseModel):
    """What every refusal looks like."""

    error: ErrorBody
