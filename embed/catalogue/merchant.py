"""Google Merchant Center: the mapping both of its forms share, and its XML (RSS 2.0 or Atom) read as a stream.

https://support.google.com/merchants/answer/7052112 names the attributes. A sale price wins over the price, which stays
as the attribute `list_price`; its effective dates are not looked at, so that a feed reads the same on any day.
"""

from collections.abc import Iterator
from typing import BinaryIO
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, EntitiesForbidden
from defusedxml.ElementTree import iterparse

from embed.catalogue.mapping import ColumnSource, Mapping
from embed.errors import BadInput, Damaged
from embed.records import Record

MERCHANT_MAPPING = Mapping(
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

# Bytes one product may take up in XML; beyond it the feed is refused, for the parser holds an element whole.
MAX_PRODUCT = 1 << 24


def read_xml(stream: BinaryIO, name: str) -> Iterator[Record]:
    """The products of a feed, numbered from 1. Raises BadInput for entities, Damaged for XML that breaks off.

    A broken feed is refused whole: nothing says where its next product would start.
    """
    watched = _Watched(stream, name)
    above: list[Element] = []
    count = 0
    try:
        for event, element in iterparse(watched, events=("start", "end")):
            if event == "start":
                above.append(element)
                continue
            above.pop()
            if _local(element.tag) in ("item", "entry"):
                count += 1
                yield Record(count, _values(element))
                watched.since = 0
                if above:
                    above[-1].clear()
    except EntitiesForbidden as error:
        raise BadInput(f"{name} declares the entity {error.name!r}: entities are refused", "feed") from error
    except DefusedXmlException as error:
        raise BadInput(f"{name} refers outside itself: {error}", "feed") from error
    except ParseError as error:
        raise Damaged(f"{name} is not well-formed XML, or cut: {error}", "feed") from error
    except (LookupError, ValueError) as error:  # of the parser: it has no such encoding
        raise BadInput(f"{name} is XML in an encoding that is not read ({error}): write it in UTF-8", "feed") from error


_GOOGLE = "{http://base.google.com/ns/1.0}"
_REPEATED = ("additional_image_link",)


def _values(product: Element) -> dict[str, object]:
    """Text by local name; Google's own names win over RSS's and Atom's, the first of repeats over later ones."""
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


class _Watched:
    """A stream that refuses to feed the parser without end while no product ends."""

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self.since = 0

    def read(self, size: int = -1) -> bytes:
        self.since += size
        if self.since > MAX_PRODUCT:
            raise BadInput(f"{self._name} has no end of a product in {MAX_PRODUCT} bytes", "feed")
        return self._stream.read(size)
