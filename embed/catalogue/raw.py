"""A raw product: what a mapping makes of a record, and cleaning an item of."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Raw:
    """One product under the contract's names, its values still as the feed gave them."""

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
