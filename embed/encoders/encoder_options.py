"""Options of an encoder: what its name does not say, such as prompts or the preprocessing of bare weights.

In `vetrina.toml` they are a table by the encoder's name: `[encoders."st:intfloat/e5-base-v2"]`.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer
from pydantic_core import PydanticCustomError

Level = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(gt=0, le=1)]


class EncoderOptions(BaseModel):
    """Options of one encoder. Each kind of encoder takes some of them, and refuses the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preprocess: Literal["openai", "siglip", "clipa", "mobileclip", "mobileclip2", "pe"] | None = Field(
        None, description="open_clip: preprocessing that bare weights were trained with"
    )
    mean: tuple[Level, Level, Level] | None = Field(
        None, description="open_clip: mean of red, green and blue, from 0 to 1"
    )
    std: tuple[Spread, Spread, Spread] | None = Field(
        None, description="open_clip: standard deviation of red, green and blue, above 0 and up to 1"
    )
    resize_mode: Literal["shortest", "longest", "squash"] | None = Field(
        None, description="open_clip: which side is scaled to the model's size, or both"
    )
    interpolation: Literal["bicubic", "bilinear"] | None = Field(None, description="open_clip: how photos are scaled")
    activation: Literal["gelu", "quick_gelu"] | None = Field(
        None, description="open_clip: activation function that bare weights were trained with"
    )
    query_prompt: str | None = Field(
        None, max_length=10_000, description="st, http: text before each query; default is the model's own"
    )
    document_prompt: str | None = Field(
        None, max_length=10_000, description="st, http: text before each text of an item; default is the model's own"
    )
    truncate_dim: int | None = Field(
        None, ge=1, description="st, http: dimensions to keep, of a model that was trained for it"
    )
    trust_remote_code: bool = Field(
        False, description="st: whether code that comes with the model is run; needs a pinned revision"
    )
    base_url: str = Field("", description="http: URL of the server, up to and including /v1")
    model: str = Field("", description="http: name of the model on the server; default is the encoder's own name")
    api_key_variable: str = Field("", description="http: environment variable that has the server's key")
    images: bool = Field(False, description="http: whether the server takes images as data URLs")

    # The next two do not repeat the value, which may be or contain a key.
    @field_validator("base_url", mode="before")
    @classmethod
    def _check_base_url(cls, value: Any) -> Any:
        if isinstance(value, str) and not re.fullmatch(r"(https?://[^\s@/]+[^\s@]*)?", value):
            raise PydanticCustomError(
                "base_url",
                "write http:// or https:// with a host, and no user or password: a key goes into an environment "
                "variable, named by api_key_variable",
            )
        return value

    @field_validator("api_key_variable", mode="before")
    @classmethod
    def _check_api_key_variable(cls, value: Any) -> Any:
        if isinstance(value, str) and not re.fullmatch(r"[A-Z0-9_]*", value):
            raise PydanticCustomError(
                "api_key_variable", "write the name of an environment variable in capitals, not the key itself"
            )
        return value

    @property
    def given(self) -> dict[str, Any]:
        """The options that are not the default."""
        return {name: value for name, value in self if value != type(self).model_fields[name].default}

    @model_serializer
    def _as_dict(self) -> dict[str, Any]:
        return self.given


NO_OPTIONS = EncoderOptions()
CONNECTION = ("base_url", "api_key_variable")
"""Options that say where a model is and change no vector."""
