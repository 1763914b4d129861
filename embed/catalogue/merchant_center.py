"""Google Merchant Center: the mapping of its TSV and XML feeds, and a streaming reader of its XML (RSS 2.0 or Atom).

https://support.google.com/merchants/answer/7052112 lists the attributes. A sale price overrides the price, which stays
as the attribute `list_price`. Its effective dates are ignored, so that a feed reads the same on any day.
"""

from collections.abc import Iterator
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, EntitiesForbidden
from defusedxml.ElementTree import iterparse

from embed.catalogue.feed_mapping import ColumnSource, FeedMapping
from embed.errors import BadInput, Damaged
from embed.records import Record

MERCHANT_MAPPING = FeedMapping(
    {
        "item_id": (ColumnSource("id"),),
        "title": (ColumnSource("title"),),
        "description": (ColumnSource("description"), ColumnSource("summary"), ColumnSource("content")),
        "category": (ColumnSource("product_type"), ColumnSource("google_product_category")),
        "brand": (ColumnSource("brand"),),
        "price": (ColumnSource("sale_price"), ColumnSource("price")),
        "images": (ColumnSource("image_link"), ColumnSource("additional_image_link", split=",")),
        "available": (ColumnSource("availability"),),
    },
    {
        **{
            name: ColumnSource(name)
            for name in ("size", "pattern", "gender", "age_group", "condition", "item_group_id")
        },
        **{name: ColumnSource(name, split="/") for name in ("color", "material")},
        "list_price": ColumnSource("price"),
    },
)

# Bytes of one product in XML. The parser holds a whole element in memory, so a feed with a larger one is refused.
MAX_PRODUCT = 1 << 24


def read_xml(stream: BinaryIO, name: str) -> Iterator[Record]:
    """Yield the products of a feed, numbered from 1. Raises BadInput for entities, Damaged for malformed XML.

    A malformed feed is refused as a whole, because nothing marks where its next product would start.
    """
    limited = _LimitedStream(stream, name)
    open_elements: list[Element] = []
    count = 0
    try:
        for event, element in iterparse(limited, events=("start", "end")):
            if event == "start":
                open_elements.append(element)
                continue
            open_elements.pop()
            if _local(element.tag) in ("item", "entry"):
                count += 1
                yield Record(count, _values(element))
                limited.since = 0
                if open_elements:
                    open_elements[-1].clear()
    except EntitiesForbidden as error:
        raise BadInput(f"{name} declares the entity {error.name!r}: remove entity declarations", "feed") from error
    except DefusedXmlException as error:
        raise BadInput(f"{name} refers to external content: {error}", "feed") from error
    except ParseError as error:
        raise Damaged(f"{name} is malformed or truncated XML: {error}", "feed") from error
    except (LookupError, ValueError) as error:  # of the parser, for an unsupported encoding
        raise BadInput(f"{name} has an unsupported encoding ({error}): save it as UTF-8", "feed") from error


_GOOGLE = "{http://base.google.com/ns/1.0}"
_REPEATED = ("additional_image_link",)


def _values(product: Element) -> dict[str, object]:
    """Return texts by local name. Google's names override those of RSS and Atom, and the first of repeats counts."""
    values: dict[str, object] = {}
    children = sorted(product, key=lambda child: not child.tag.startswith(_GOOGLE))
    for child in children:
        name, text = _local(child.tag), child.text or child.get("href") or ""
        if name in _REPEATED:
            repeats = values.setdefault(name, [])
            if isinstance(repeats, list):
                repeats.append(text)
        elif not values.get(name):
            values[name] = text
    return values


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


class _LimitedStream:
    """A stream that limits how much the parser reads without reaching the end of a product."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self.since = 0

    def read(self, size: int = -1) -> bytes:
        self.since += size
        if self.since > MAX_PRODUCT:
            raise BadInput(f"{self._name} has a product of more than {MAX_PRODUCT} bytes: shorten it", "feed")
        return self._stream.read(size)
