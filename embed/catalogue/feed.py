"""A feed opened for reading: its format recognised, its compression undone, its records as a stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from embed.catalogue.mapping import CONTRACT_MAPPING, FORMATS, Mapping
from embed.catalogue.merchant import MERCHANT_MAPPING, read_xml
from embed.catalogue.shopify import SHOPIFY_MAPPING, USED, variants
from embed.errors import BadInput
from embed.records import (
    DelimitedReader,
    Record,
    RecordFile,
    Reject,
    open_source,
    plain_name,
    read_jsonl,
    read_parquet,
    read_table,
)


@dataclass
class Feed:
    """Records of a feed under the feed's own names, and the mapping to read them by.

    `columns` is what the feed declares up front (None where each record names its own); `used` are columns the reader
    itself has taken in; `position()` is how many of the file's bytes have been read.
    """

    format: str
    mapping: Mapping
    records: Iterator[Record | Reject]
    columns: tuple[str, ...] | None
    used: frozenset[str]
    position: Callable[[], int]


@contextmanager
def open_feed(path: Path, mapping: Mapping | None = None, format: str | None = None) -> Iterator[Feed]:
    """Opens a feed of any known format; memory stays bounded whatever its size.

    CSV or TSV, JSONL, Parquet, Merchant Center (TSV or XML) and Shopify, plain or gzipped. `format` forces one of
    "csv", "jsonl", "parquet", "merchant", "shopify". Raises Missing, BadInput or Damaged, also while being read.
    """
    mapping = mapping or Mapping()
    mapping = replace(mapping, format=format or mapping.format)
    if mapping.format not in ("", *FORMATS):
        raise BadInput(f"there is no format {format!r}; known: {', '.join(FORMATS)}", "format")
    with open_source(path, "feed") as source:
        yield _feed(source, mapping)


def _feed(source: RecordFile, mapping: Mapping) -> Feed:
    format = mapping.format or ("merchant" if source.looks_like == "xml" else source.looks_like)
    if format == "parquet":
        parquet = read_parquet(source)
        return Feed(
            "parquet",
            mapping.over(CONTRACT_MAPPING),
            parquet.records,
            parquet.columns,
            frozenset(),
            parquet.position,
        )
    if format == "merchant" and source.looks_like == "xml":
        products = read_xml(source.stream, source.name)
        return Feed("merchant", mapping.over(MERCHANT_MAPPING), products, None, frozenset(), source.position)
    if format == "jsonl":
        lines = read_jsonl(source, mapping.encoding)
        return Feed(format, mapping.over(CONTRACT_MAPPING), lines, None, frozenset(), source.position)
    return _table(format, read_table(source, mapping.encoding, mapping.delimiter), mapping, source.position)


def _table(format: str, reader: DelimitedReader, mapping: Mapping, position: Callable[[], int]) -> Feed:
    plain = {plain_name(column) for column in reader.columns}
    if not format:
        if {"handle", "title", "variant_price"} <= plain:
            format = "shopify"
        elif {"id", "title", "image_link"} <= plain or {"id", "title", "availability", "price"} <= plain:
            format = "merchant"
        else:
            format = "csv"
    found = f"columns found: {', '.join(reader.columns[:40])}"
    missing = sorted(column for column in mapping.named() if plain_name(column) not in plain)
    if missing and reader.columns and format == "csv":
        raise BadInput(f"the mapping names columns the feed lacks: {', '.join(missing)}; {found}", missing[0])
    if format == "shopify":
        if reader.columns and "Handle" not in reader.columns:
            raise BadInput(
                f"a Shopify CSV has a column Handle; columns found: {', '.join(reader.columns[:40])}", "Handle"
            )
        return Feed(format, mapping.over(SHOPIFY_MAPPING), variants(iter(reader)), None, USED, position)
    base = MERCHANT_MAPPING if format == "merchant" else CONTRACT_MAPPING
    return Feed(format, mapping.over(base), iter(reader), reader.columns, frozenset(), position)
