"""The item: a product that can be bought, and the Arrow schema of a catalogue."""

from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(slots=True)
class Item:
    """One product after cleaning. A missing value is None or empty, never a text such as "null".

    `category` is a path with `/` between levels. `price` is in units of `currency` (ISO 4217), never NaN or infinite.
    `images` are references as the feed gave them (paths inside the image root, or URLs), the main one first.
    `attributes` maps a name (`color`) to its values. `updated_at` is in epoch seconds, UTC.
    """

    item_id: str
    title: str | None = None
    description: str | None = None
    category: str | None = None
    brand: str | None = None
    price: float | None = None
    currency: str | None = None
    images: list[str] = field(default_factory=list)
    attributes: dict[str, list[str]] = field(default_factory=dict)
    available: bool = True
    domain: str | None = None
    updated_at: float | None = None


ITEM_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("description", pa.string()),
        pa.field("category", pa.string()),
        pa.field("brand", pa.string()),
        pa.field("price", pa.float64()),
        pa.field("currency", pa.string()),
        pa.field("images", pa.list_(pa.string())),
        pa.field("attributes", pa.map_(pa.string(), pa.list_(pa.string()))),
        pa.field("available", pa.bool_()),
        pa.field("domain", pa.string()),
        pa.field("updated_at", pa.float64()),
    ]
)
