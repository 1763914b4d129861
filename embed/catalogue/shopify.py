"""Reads Shopify's product CSV: consecutive rows with one Handle form a product, and each variant becomes an item.

https://help.shopify.com/en/manual/products/import-export/using-csv lists the columns. A variant's id is its SKU if no
other variant of the product has it, else the handle and the option values (`tee:Red:M`). Rows that only add an image
do not become items.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from embed.catalogue.feed_mapping import ColumnSource, FeedMapping
from embed.records import Record, Reject

_OPTIONS = tuple((f"Option{number} Name", f"Option{number} Value") for number in (1, 2, 3))
USED_COLUMNS = frozenset(
    {
        *("Handle", "Title", "Vendor", "Type", "Tags", "Status", "Published", "Body (HTML)", "Product Category"),
        *("Image Src", "Image Position", "Variant Image", "Variant SKU", "Variant Price", "Variant Compare At Price"),
        *("Variant Inventory Qty", "Variant Inventory Policy", "Variant Inventory Tracker"),
        *(column for option in _OPTIONS for column in option),
    }
)

# The names are those of `read_variants`. A shop's own mapping may also name any column of the file.
SHOPIFY_MAPPING = FeedMapping(
    {
        **{name: (ColumnSource(name),) for name in ("item_id", "title", "description", "category", "brand", "price")},
        "images": (ColumnSource("images"),),
        "available": (ColumnSource("available"),),
    },
    {"attributes": ColumnSource("attributes", json=True)},
)


def read_variants(rows: Iterator[Record | Reject]) -> Iterator[Record | Reject]:
    """Yield one record for each variant in the rows of a product CSV; rejects pass through."""
    handle = ""

    def key(row: Record | Reject) -> str:
        nonlocal handle
        if isinstance(row, Record):
            handle = row.values["Handle"].strip() or handle
        return handle

    for product, group in groupby(rows, key):
        product_rows: list[Record] = []
        for row in group:
            if isinstance(row, Reject):
                yield row
                continue
            product_rows.append(row)
            if len(product_rows) >= _MAX_ROWS:  # Shopify allows 2048 variants; bound the memory for other files
                yield from _product(product, product_rows)
                product_rows = []
        if product_rows:
            yield from _product(product, product_rows)


_MAX_ROWS = 10_000
_MAX_IMAGES = 250  # of a product, as many as Shopify allows; every variant has all of them


def _product(handle: str, rows: list[Record]) -> Iterator[Record]:
    first = rows[0].values
    positions = [(_image_position(row.values), row.values["Image Src"]) for row in rows if row.values.get("Image Src")]
    images = list(dict.fromkeys(image for _, image in sorted(positions, key=lambda pair: pair[0])))[:_MAX_IMAGES]
    names = [first.get(name, "").strip().lower() for name, _ in _OPTIONS]
    several = [row for row in rows if _is_variant(row.values)] or rows[:1]
    skus = Counter(row.values.get("Variant SKU", "").strip() for row in several)
    for row in several:
        values = row.values
        option_values = [values.get(column, "").strip() for _, column in _OPTIONS]
        options = {name: value for name, value in zip(names, option_values, strict=True) if name and value}
        if option_values[0] == "Default Title":
            options = {}
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


def _image_position(values: dict[str, str]) -> int:
    position = values.get("Image Position", "").strip()
    return int(position) if position.isdecimal() and len(position) < 10 else 1_000_000


_COUNT = re.compile(r"-?\d+")


def _is_available(product: dict[str, str], variant: dict[str, str]) -> bool:
    """Return whether a variant is published and in stock. Stock counts only if it is tracked and may not go below 0."""
    if product.get("Status", "").lower() in ("draft", "archived") or product.get("Published", "").lower() == "false":
        return False
    stock = variant.get("Variant Inventory Qty", "").strip()
    unlimited = variant.get("Variant Inventory Policy", "").lower() == "continue"
    tracked = variant.get("Variant Inventory Tracker", "shopify")  # without the column, stock is tracked
    return not stock or unlimited or not tracked or not _COUNT.fullmatch(stock) or int(stock[:18]) > 0
