"""The raw product: a record after mapping and before cleaning."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class RawProduct:
    """A product under the standard field names, with the feed's values unchanged."""

    line: int
    item_id: object = None
    title: object = None
    description: object = None
    category: object = None
    brand: object = None
    price: object = None
    currency: object = None
    images: list[object] = field(default_factory=list)
    attributes: dict[str, list[object]] = field(default_factory=dict)
    available: object = None
    domain: object = None
    updated_at: object = None
    fallback_currency: str | None = None
