"""Catalogue fields that a response can carry."""

from typing import Literal

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
DEFAULT_FIELDS: list[FieldName] = ["title", "category", "brand", "price", "currency", "image"]
