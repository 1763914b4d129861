"""Preferences of users; without a database, so that clients can use the model."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=512)]


class Preferences(BaseModel):
    """Preferences of a user: what the service may do, and what it must not show."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"blocked_brands": ["Zainetto"], "explore": False}]},
    )

    personal: bool = Field(True, description="allow responses to use the events of the user")
    marketing: bool = Field(True, description="allow campaigns to contact the user; never if `personal` is false")
    explore: bool = Field(True, description="allow responses to try items that are not the best by the scores")
    blocked_items: list[Name] = Field([], max_length=1000, description="items that are never shown")
    blocked_categories: list[Name] = Field(
        [], max_length=100, description="categories that are never shown, with all categories below them"
    )
    blocked_brands: list[Name] = Field([], max_length=100, description="brands that are never shown")

    @property
    def blocked(self) -> dict[str, Any]:
        """A filter that matches items of blocked categories and brands; empty without any."""
        parts = [
            {name: {"in": values}}
            for name, values in (("category", self.blocked_categories), ("brand", self.blocked_brands))
            if values
        ]
        return {"any": parts} if parts else {}
