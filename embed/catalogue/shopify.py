"""Shopify's product CSV: consecutive rows of a Handle make a product, and each of its variants becomes an item.

https://help.shopify.com/en/manual/products/import-export/using-csv names the columns. A variant's id is its SKU if no
other variant of the product has it, else the handle and the option values (`tee:Red:M`). Rows that only add an image
are no records of their own.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from embed.catalogue.mapping import ColumnSource, Mapping
from embed.records import Record, Reject

_OPTIONS = tuple((f"Option{number} Name", f"Option{number} Value") for number in (1, 2, 3))
USED = frozenset(
    {
        *("Handle", "Title", "Vendor", "Type", "Tags", "Status", "Published", "Body (HTML)", "Product Category"),
        *("Image Src", "Image Position", "Variant Image", "Variant SKU", "Variant Price", "Variant Compare At Price"),
        *("Variant Inventory Qty", "Variant Inventory Policy", "Variant Inventory Tracker"),
        *(column for option in _OPTIONS for column in option),
    }
)

# The names are those `variants` gives; a shop's own mapping may name any column of the file beside them.
SHOPIFY_MAPPING = Mapping(
    {
        **{name: (ColumnSource(name),) for name in ("item_id", "title", "description", "category", "brand", "price")},
        "images": (ColumnSource("images"),),
        "available": (ColumnSource("available"),),
    },
    {"attributes": ColumnSource("attributes", json=True)},
)


def variants(rows: Iterator[Record | Reject]) -> Iterator[Record | Reject]:
    """Variants, one record each, of the rows of a product CSV; rejects pass through."""
    handle = ""

    def key(row: Record | Reject) -> str:
        nonlocal handle
        if isinstance(row, Record):
            handle = row.values["Handle"].strip() or handle
        return handle

    for product, group in groupby(rows, key):
        taken: list[Record] = []
        for row in group:
            if isinstance(row, Reject):
                yield row
                continue
            taken.append(row)
            if len(taken) >= _MAX_ROWS:  # Shopify allows 2048 variants; memory stays bounded for a file that does not
                yield from _product(product, taken)
                taken = []
        if taken:
            yield from _product(product, taken)


_MAX_ROWS = 10_000
_MAX_IMAGES = 250  # that Shopify allows a product; each of its variants has them all


def _product(handle: str, rows: list[Record]) -> Iterator[Record]:
    first = rows[0].values
    placed = [(_place(row.values), row.values["Image Src"]) for row in rows if row.values.get("Image Src")]
    images = list(dict.fromkeys(image for _, image in sorted(placed, key=lambda pair: pair[0])))[:_MAX_IMAGES]
    names = [first.get(name, "").strip().lower() for name, _ in _OPTIONS]
    several = [row for row in rows if _is_variant(row.values)] or rows[:1]
    skus = Counter(row.values.get("Variant SKU", "").strip() for row in several)
    for row in several:
        values = row.values
        given = [values.get(column, "").strip() for _, column in _OPTIONS]
        options = {} if given[:1] == ["Default Title"] else {n: v for n, v in zip(names, given, strict=True) if n and v}
        sku = values.get("Variant SKU", "").strip()
        title = first.get("Title", "")
        if len(several) > 1 and options:
            title = f"{title} - {' / '.join(options.values())}"
        filled = first | {column: value for column, value in values.items() if value}
        derived = {
            "item_id": sku if sku and skus[sku] == 1 else ":".join([handle, *options.values()]),
            "title": title,
            "description": first.get("Body (HTML)"),
            "category": first.get("Type") or first.get("Product Category"),
            "brand": first.get("Vendor"),
            "price": values.get("Variant Price"),
            "images": [values.get("Variant Image"), *images],
            "available": _is_available(first, values),
            "attributes": {
                **options,
                "handle": handle,
                "tags": [tag.strip() for tag in first.get("Tags", "").split(",")],
                "list_price": values.get("Variant Compare At Price"),
            },
        }
        yield Record(row.line, filled | derived)


def _is_variant(values: dict[str, str]) -> bool:
    return any(values.get(column) for column in ("Variant SKU", "Variant Price", "Option1 Value"))


def _place(values: dict[str, str]) -> int:
    position = values.get("Image Position", "").strip()
    return int(position) if position.isdecimal() and len(position) < 10 else 1_000_000


_COUNT = re.compile(r"-?\d+")


def _is_available(product: dict[str, str], variant: dict[str, str]) -> bool:
    """On sale, and in stock unless stock is not tracked or may run below nothing."""
    if product.get("Status", "").lower() in ("draft", "archived") or product.get("Published", "").lower() == "false":
        return False
    stock = variant.get("Variant Inventory Qty", "").strip()
    unlimited = variant.get("Variant Inventory Policy", "").lower() == "continue"
    tracked = variant.get("Variant Inventory Tracker", "shopify")  # exports without the column do track
    return not stock or unlimited or not tracked or not _COUNT.fullmatch(stock) or int(stock[:18]) > 0
