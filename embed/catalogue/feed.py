"""Opens feeds: detects the format, decompresses, and streams the records."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from embed.catalogue.feed_mapping import CONTRACT_MAPPING, FORMATS, FeedMapping
from embed.catalogue.merchant_center import MERCHANT_MAPPING, read_xml
from embed.catalogue.shopify import SHOPIFY_MAPPING, USED_COLUMNS, read_variants
from embed.errors import BadInput
from embed.records import (
    DelimitedReader,
    Record,
    RecordFile,
    Reject,
    normalize_name,
    open_record_file,
    read_jsonl,
    read_parquet,
    read_table,
)


@dataclass
class Feed:
    """The records of a feed under its own column names, and the mapping to read them with.

    `columns` are the columns that the file declares, None if each record names its own; `used` are columns that the
    reader itself has used; `position()` is the number of bytes read so far.
    """

    format: str
    mapping: FeedMapping
    records: Iterator[Record | Reject]
    columns: tuple[str, ...] | None
    used: frozenset[str]
    position: Callable[[], int]


@contextmanager
def open_feed(path: Path, mapping: FeedMapping | None = None, format: str | None = None) -> Iterator[Feed]:
    """Open a feed in any supported format. Memory use does not grow with the feed.

    Formats are CSV or TSV, JSONL, Parquet, Merchant Center (TSV or XML) and Shopify, plain or gzipped. `format` forces
    one of "csv", "jsonl", "parquet", "merchant", "shopify". Raises Missing, BadInput or Damaged, also while the feed is
    read.
    """
    mapping = mapping or FeedMapping()
    mapping = replace(mapping, format=format or mapping.format)
    if mapping.format not in ("", *FORMATS):
        raise BadInput(f"format {format!r} is not supported: use one of {', '.join(FORMATS)}", "format")
    with open_record_file(path, "feed") as source:
        yield _feed(source, mapping)


def _feed(source: RecordFile, mapping: FeedMapping) -> Feed:
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


def _table(format: str, reader: DelimitedReader, mapping: FeedMapping, position: Callable[[], int]) -> Feed:
    plain = {normalize_name(column) for column in reader.columns}
    if not format:
        if {"handle", "title", "variant_price"} <= plain:
            format = "shopify"
        elif {"id", "title", "image_link"} <= plain or {"id", "title", "availability", "price"} <= plain:
            format = "merchant"
        else:
            format = "csv"
    columns = f"columns of the feed: {', '.join(reader.columns[:40])}"
    missing = sorted(column for column in mapping.named() if normalize_name(column) not in plain)
    if missing and reader.columns and format == "csv":
        raise BadInput(f"the mapping names columns that the feed lacks: {', '.join(missing)}; {columns}", missing[0])
    if format == "shopify":
        if reader.columns and "Handle" not in reader.columns:
            raise BadInput(f"the feed is not a Shopify CSV: it has no column Handle; {columns}", "Handle")
        return Feed(format, mapping.over(SHOPIFY_MAPPING), read_variants(iter(reader)), None, USED_COLUMNS, position)
    base = MERCHANT_MAPPING if format == "merchant" else CONTRACT_MAPPING
    return Feed(format, mapping.over(base), iter(reader), reader.columns, frozenset(), position)
