"""Opens record files: detects the format, decompresses, and streams the records."""

import codecs
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from embed.errors import BadInput, Damaged, Missing
from embed.records.delimited import DelimitedReader, numbered_lines
from embed.records.record import MAX_RECORD, Record, Reject


@dataclass
class RecordFile:
    """An open file. `kind` is its role (feed, events), which errors name as their field; `head` is its first bytes."""

    path: Path
    kind: str
    file: BinaryIO
    stream: BinaryIO
    head: bytes

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def looks_like(self) -> str:
        """The format by name and first bytes: "parquet", "jsonl", "xml", or empty for what may be a table."""
        return _detect_format(self.path, self.head, self.kind)

    def position(self) -> int:
        """Return the number of bytes read so far."""
        return self.file.tell()


@dataclass
class ParquetRows:
    """The rows of a Parquet file; `position()` is the approximate number of bytes read so far."""

    columns: tuple[str, ...]
    records: Iterator[Record]
    position: Callable[[], int]


@contextmanager
def open_record_file(path: Path, kind: str) -> Iterator[RecordFile]:
    """Open a file, plain or gzipped. Raises Missing, BadInput or Damaged, also while it is read."""
    if not path.exists():
        raise Missing(f"{kind} {path} does not exist", kind)
    if path.is_dir():
        raise BadInput(f"{kind} {path} is a folder: give the path of the file", kind)
    try:
        with ExitStack() as files:
            file: BinaryIO = files.enter_context(path.open("rb"))
            stream = file
            if file.read(2) == b"\x1f\x8b":
                file.seek(0)
                stream = cast(BinaryIO, io.BufferedReader(files.enter_context(gzip.GzipFile(fileobj=file)), 1 << 18))
            stream.seek(0)
            head = stream.read(1 << 12)
            stream.seek(0)
            yield RecordFile(path, kind, file, stream, head)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"{path.name} is truncated: its compressed data are incomplete ({error})", kind) from error


def read_jsonl(source: RecordFile, encoding: str = "") -> Iterator[Record | Reject]:
    """Yield the records of a file with one JSON object on each line."""
    text, undecodable = _text(source, encoding, newline="\n")
    for number, line in numbered_lines(text):
        if not line.strip():
            continue
        if len(line) > MAX_RECORD:
            yield Reject(number, "too_long", f"the line is longer than {MAX_RECORD} characters")
        elif not line.isascii() and undecodable.search(line):
            yield Reject(number, "bad_encoding", "the line cannot be decoded: set the encoding in the mapping")
        else:
            yield _json_record(number, line)


def read_table(source: RecordFile, encoding: str = "", delimiter: str = "") -> DelimitedReader:
    """Read the rows of a CSV or TSV file. Without an encoding: UTF-8, or UTF-16 with a byte order mark."""
    text, undecodable = _text(source, encoding, newline="")
    is_tsv = source.name.lower().removesuffix(".gz").endswith(".tsv")
    return DelimitedReader(text, undecodable, delimiter or ("\t" if is_tsv else ""))


def read_parquet(source: RecordFile) -> ParquetRows:
    """Read the rows of a Parquet file, numbered from 1."""
    try:
        parquet = pq.ParquetFile(source.file)
        columns = tuple(parquet.schema_arrow.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{source.name} cannot be read as Parquet: {error}", source.kind) from error
    total, size, read = parquet.metadata.num_rows, source.path.stat().st_size, 0

    def records() -> Iterator[Record]:
        nonlocal read
        try:
            for batch in parquet.iter_batches(4096):
                lists = [_python(column) for column in batch.columns]
                for row in zip(*lists, strict=True):
                    read += 1
                    yield Record(read, dict(zip(columns, row, strict=True)))
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{source.name} is damaged after row {read}: {error}", source.kind) from error

    return ParquetRows(columns, records(), lambda: size * read // max(total, 1))


def _detect_format(path: Path, head: bytes, kind: str) -> str:
    name = path.name.lower().removesuffix(".gz")
    start = head.lstrip(codecs.BOM_UTF8 + b" \r\n\t")
    if head.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"<"):
        return "xml"
    if name.endswith(".json") and start.startswith(b"["):
        raise BadInput(f"{path.name} is one JSON array: write one object per line, jq -c '.[]' {path.name}", kind)
    if name.endswith((".jsonl", ".ndjson", ".json")) or start.startswith(b"{"):
        return "jsonl"
    if name.endswith((".parquet", ".pq")):
        raise Damaged(f"{path.name} is not a Parquet file, or its first bytes are missing", kind)
    return ""


def _text(source: RecordFile, encoding: str, newline: str) -> tuple[io.TextIOWrapper, re.Pattern[str]]:
    """Open the file as text; also return the pattern of the characters that stand for undecodable bytes."""
    bom = source.head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = encoding or ("utf-16" if bom else "utf-8-sig")
    try:
        is_utf8 = codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")
    except LookupError:
        raise BadInput(
            f"encoding {encoding!r} is unknown: use one like latin-1, cp1252, utf-16-le", "encoding"
        ) from None
    errors = "surrogateescape" if is_utf8 else "replace"
    undecodable = re.compile("[\ud800-\udfff]" if is_utf8 else "\ufffd")
    return io.TextIOWrapper(source.stream, "utf-8-sig" if is_utf8 else encoding, errors, newline), undecodable


def _json_record(number: int, line: str) -> Record | Reject:
    try:
        values = json.loads(line)  # accepts NaN, which many exporters write; cleaning handles it
        if "\\u" in line:
            json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return Reject(number, "bad_encoding", "the line contains an unpaired surrogate")
    except (ValueError, RecursionError) as error:
        return Reject(number, "bad_json", f"invalid JSON: {error}")
    if not isinstance(values, dict):
        return Reject(number, "not_an_object", f"the line is a JSON {type(values).__name__}, not an object")
    return Record(number, values)


def _python(column: Any) -> list[Any]:
    if pa.types.is_timestamp(column.type):  # a datetime cannot hold nanoseconds
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    try:
        return cast(list[Any], column.to_pylist())
    except (ValueError, OverflowError):  # one of the values is invalid
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    """Return a value, or one that cleaning drops: bytes for text that is not UTF-8, NaN for a date out of range."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return b""
    except (ValueError, OverflowError):
        return math.nan
