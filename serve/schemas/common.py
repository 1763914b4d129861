"""Types, limits and base models shared by all requests and responses."""

from base64 import b64decode
from binascii import Error as InvalidBase64
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, EncodedBytes, EncoderProtocol, Field
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
K = Annotated[int, Field(ge=1, le=MAX_K, strict=True, description="number of items to return")]
Fields = Annotated[
    list[FieldName],
    Field(max_length=12, description="catalogue columns to return with each item; in a query string, repeat it"),
]
FilterObject = Annotated[
    dict[str, Any],
    Field(
        description="conditions on catalogue columns, all of which must hold: a value, or one of the operators eq, in, "
        "gt, gte, lt, lte; `not` takes an object of conditions, `any` a list of them",
        examples=[{"category": "Shoes", "price": {"lte": 50}, "not": {"brand": {"in": ["A", "B"]}}}],
    ),
]


class Base64(EncoderProtocol):
    """Decodes base64 strictly. Pydantic's own encoder skips invalid characters. Line breaks are allowed."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        try:
            return b64decode(data.translate(None, b" \t\r\n"), validate=True)
        except InvalidBase64 as error:
            raise PydanticCustomError(
                "base64", "invalid base64: send the photo's bytes in standard base64, without a data: prefix"
            ) from error

    @classmethod
    def get_json_format(cls) -> Literal["base64"]:
        return "base64"


Personalization = Annotated[
    float | None,
    Field(
        validation_alias=AliasChoices("personalization", "personal"),  # the second: version 0.1
        ge=0,
        le=10,
        description="weight of personalization relative to relevance; default: the setting `personalization`",
    ),
]
Photo = Annotated[bytes, EncodedBytes(encoder=Base64)]


class Strict(BaseModel):
    """A model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid")


class HistoryEvent(Strict):
    """One recent interaction of a user, sent with the request instead of being read from the event log."""

    item_id: ItemId = Field(description="item of the interaction")
    type: Literal["view", "click", "cart", "purchase", "rating", "dislike"] = Field(
        "click", description="type of the interaction"
    )
    timestamp: float | str | None = Field(
        None, description="epoch seconds or ISO 8601; default: the order of the events"
    )
    value: float | None = Field(None, description="the rating, for events of type `rating`")


History = Annotated[
    list[HistoryEvent],
    Field(
        max_length=MAX_HISTORY,
        description="recent interactions, the latest last; appended to the stored events of `user_id`",
    ),
]


class ResponseBase(BaseModel):
    """The fields of every response."""

    request_id: str = Field(description="id of this request, also in the log; send it with events that result from it")
    release: str = Field(description="release that produced the response")
    took_ms: float = Field(description="processing time in milliseconds")
    partial: list[str] = Field(
        [], description="parts that were not ready in time and are missing: `scorer`, `events`, or a space"
    )


class ErrorBody(BaseModel):
    """Description of an error."""

    code: str = Field(description="error code, for programs")
    message: str = Field(description="invalid value, reason, and how to fix it")
    field: str = Field(description="path of the invalid field; empty if the error concerns none")


class ErrorEnvelope(BaseModel):
    """The body of every error response."""

    error: ErrorBody = Field(description="the error")
