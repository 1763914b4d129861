"""A feed opened for reading: its format recognised, its compression undone, its records as a stream."""

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from embed.catalogue.delimited import DelimitedReader, numbered_lines
from embed.catalogue.mapping import CONTRACT_MAPPING, FORMATS, Mapping, plain_name
from embed.catalogue.merchant import MERCHANT_MAPPING, read_xml
from embed.catalogue.record import MAX_RECORD, Record, Reject
from embed.catalogue.shopify import SHOPIFY_MAPPING, USED, variants
from embed.errors import BadInput, Damaged, Missing


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
    if not path.exists():
        raise Missing(f"there is no feed {path}", "feed")
    if path.is_dir():
        raise BadInput(f"{path} is a folder; name the feed's file", "feed")
    try:
        with ExitStack() as files:
            file: BinaryIO = files.enter_context(path.open("rb"))
            stream = file
            if file.read(2) == b"\x1f\x8b":
                file.seek(0)
                stream = cast(BinaryIO, io.BufferedReader(files.enter_context(gzip.GzipFile(fileobj=file)), 1 << 18))
            stream.seek(0)
            yield _feed(path, file, stream, mapping)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"{path.name} is not whole: its compressed data break off ({error})", "feed") from error


def _feed(path: Path, file: BinaryIO, stream: BinaryIO, mapping: Mapping) -> Feed:
    head = stream.read(1 << 12)
    stream.seek(0)
    format = mapping.format or _recognised(path, head)
    if format == "parquet":
        return _parquet(path, file, mapping)
    if format == "merchant" and head.lstrip(codecs.BOM_UTF8 + b" \r\n\t").startswith(b"<"):
        records = read_xml(stream, path.name)
        return Feed("merchant", mapping.over(MERCHANT_MAPPING), records, None, frozenset(), file.tell)
    encoding = mapping.encoding or ("utf-16" if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
    try:
        is_utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    except LookupError:
        raise BadInput(
            f"there is no encoding {encoding!r}; for example latin-1, cp1252, utf-16-le", "encoding"
        ) from None
    errors = "surrogateescape" if is_utf8 else "replace"
    undecodable = re.compile("[\ud800-\udfff]" if is_utf8 else "\ufffd")
    newline = "\n" if format == "jsonl" else ""
    text = io.TextIOWrapper(stream, "utf-8-sig" if is_utf8 else encoding, errors, newline)
    if format == "jsonl":
        return Feed(format, mapping.over(CONTRACT_MAPPING), _jsonl(text, undecodable), None, frozenset(), file.tell)
    delimiter = mapping.delimiter or ("\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else "")
    reader = DelimitedReader(text, undecodable, delimiter)
    return _table(format, reader, mapping, file.tell)


def _recognised(path: Path, head: bytes) -> str:
    name = path.name.lower().removesuffix(".gz")
    start = head.lstrip(codecs.BOM_UTF8 + b" \r\n\t")
    if head.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"<"):
        return "merchant"
    if name.endswith(".json") and start.startswith(b"["):
        raise BadInput(f"{path.name} is one JSON array; write one object a line: jq -c '.[]' {path.name}", "feed")
    if name.endswith((".jsonl", ".ndjson", ".json")) or start.startswith(b"{"):
        return "jsonl"
    if name.endswith((".parquet", ".pq")):
        raise Damaged(f"{path.name} is not a Parquet file, or its start is gone", "feed")
    return ""  # a table, told apart by its header


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


def _jsonl(text: io.TextIOWrapper, undecodable: re.Pattern[str]) -> Iterator[Record | Reject]:
    for number, line in numbered_lines(text):
        if not line.strip():
            continue
        if len(line) > MAX_RECORD:
            yield Reject(number, "too_long", f"the line is longer than {MAX_RECORD} characters")
        elif not line.isascii() and undecodable.search(line):
            yield Reject(number, "bad_encoding", "the line cannot be decoded; name the encoding in the mapping")
        else:
            yield _json_record(number, line)


def _json_record(number: int, line: str) -> Record | Reject:
    try:
        values = json.loads(line)  # takes NaN, as many exporters write it; cleaning deals with it
        if "\\u" in line:
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Reject(number, "bad_encoding", "half a surrogate pair stands in the line")
    except (ValueError, RecursionError) as error:
        return Reject(number, "bad_json", f"not JSON: {error}")
    if not isinstance(values, dict):
        return Reject(number, "not_an_object", f"the line is a JSON {type(values).__name__}, not an object")
    return Record(number, values)


def _parquet(path: Path, file: BinaryIO, mapping: Mapping) -> Feed:
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise Damaged(f"{path.name} cannot be read as Parquet: {error}", "feed") from error
    columns = tuple(parquet.schema_arrow.names)
    total, size, read = parquet.metadata.num_rows, path.stat().st_size, 0

    def records() -> Iterator[Record]:
        nonlocal read
        try:
            for batch in parquet.iter_batches(4096):
                lists = [_python(column) for column in batch.columns]
                for row in zip(*lists, strict=True):
                    read += 1
                    yield Record(read, dict(zip(columns, row, strict=True)))
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{path.name} is damaged after row {read}: {error}", "feed") from error

    return Feed(
        "parquet", mapping.over(CONTRACT_MAPPING), records(), columns, frozenset(), lambda: size * read // max(total, 1)
    )


def _python(column: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type):  # nanoseconds have no datetime
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return cast(list[Any], column.to_pylist())
