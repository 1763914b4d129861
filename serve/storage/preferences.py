"""What a shopper wants of answers; without a database, so that clients may have it."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=512)]


class Preferences(BaseModel):
    """What a shopper wants of answers."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"blocked_brands": ["Zainetto"], "explore": False}]},
    )

    personal: bool = Field(True, description="whether answers may go by what the shopper did")
    marketing: bool = Field(True, description="whether campaigns may reach the shopper; not where nothing is personal")
    explore: bool = Field(True, description="whether answers may try what is not the best by what is known")
    blocked_items: list[Name] = Field([], max_length=1000, description="never shown")
    blocked_categories: list[Name] = Field([], max_length=100, description="never shown, with all below them")
    blocked_brands: list[Name] = Field([], max_length=100, description="never shown")

    @property
    def blocked(self) -> dict[str, Any]:
        """A filter of what must not be shown, besides single items; empty for none."""
        parts = [
            {name: {"in": values}}
            for name, values in (("category", self.blocked_categories), ("brand", self.blocked_brands))
            if values
        ]
        return {"any": parts} if parts else {}
