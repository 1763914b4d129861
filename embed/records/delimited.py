"""Reads CSV and TSV. Of a malformed file, every intact row is kept.

Rules beyond RFC 4180:

- a quote that does not start or end a field is literal text;
- a row with more or fewer cells than the header is rejected;
- a quoted field that is never closed, or that spans lines which look like rows, costs only the line where it starts:
  reading resumes at the next line. A malformed row of several lines may thus be rejected once for each line.
"""

import re
from collections import Counter, deque
from collections.abc import Iterator
from typing import TextIO

from embed.errors import BadInput
from embed.records.record import MAX_RECORD, Record, Reject

DELIMITERS = ",;\t|"


class DelimitedReader:
    """Reads the records of a delimited text; `columns` is its header, empty for an empty text.

    `stream` must be open with `newline=""`. `undecodable` matches the characters that stand for undecodable bytes.
    Raises BadInput for a header that cannot be read.
    """

    def __init__(self, stream: TextIO, undecodable: re.Pattern[str], delimiter: str = "") -> None:
        self._lines = _Lines(stream)
        self._undecodable = undecodable
        self._width = 0
        first = next((text for _, text in self._lines if text.strip()), "")
        if first.startswith("sep=") and len(first.rstrip()) <= 5:  # Excel's hint
            delimiter = delimiter or first.rstrip("\r\n")[4:]
            first = next((text for _, text in self._lines), "")
        self.delimiter = delimiter or _sniff(first)
        self._after_quote = re.compile(rf'" *(?={re.escape(self.delimiter)}|[\r\n]*\Z)')
        self.columns = self._header(first) if first else ()
        self._width = len(self.columns)

    def __iter__(self) -> Iterator[Record | Reject]:
        columns, width, delimiter = self.columns, self._width, self.delimiter
        for number, text in self._lines:
            if '"' not in text:
                stripped = text.rstrip("\r\n")
                if not stripped.strip(" "):
                    continue
                split = stripped.split(delimiter)
                if len(split) == width and text.isascii() and len(text) <= MAX_RECORD:  # the usual case
                    yield Record(number, dict(zip(columns, split, strict=False)))
                    continue
                lines: list[str] = [text]
                cells: list[str] | None = split
            else:
                lines, cells = self._quoted(text)
            fault = self._fault(number, lines, cells)
            if fault is not None:
                self._lines.push_back(number + 1, lines[1:])
                yield fault
            elif cells is not None:
                yield Record(number, dict(zip(columns, cells, strict=True)))

    def _header(self, first: str) -> tuple[str, ...]:
        lines, cells = self._quoted(first)
        text = "".join(lines)
        if cells is None or len(text) > MAX_RECORD or self._undecodable.search(text) or "\0" in text:
            raise BadInput(
                "the header line cannot be decoded: set the encoding in the mapping, for example "
                'encoding = "latin-1" or "utf-16-le"',
                "encoding",
            )
        names: dict[str, None] = {}
        times: Counter[str] = Counter()
        for position, cell in enumerate(cells, 1):
            name = base = cell.strip() or f"column {position}"
            times[base] += 1
            while name in names:
                name = f"{base} ({times[base]})"
                times[base] += name in names
            names[name] = None
        return tuple(names)

    def _fault(self, number: int, lines: list[str], cells: list[str] | None) -> Reject | None:
        text = lines[0] if len(lines) == 1 else "".join(lines)
        if cells is None or self._spans_rows(lines):
            return Reject(number, "bad_quotes", "a quoted field is not closed")
        if len(text) > MAX_RECORD:
            return Reject(number, "too_long", f"the record is longer than {MAX_RECORD} characters")
        if len(cells) != self._width:
            code = "long_row" if len(cells) > self._width else "short_row"
            return Reject(number, code, f"{len(cells)} cells where the header has {self._width}", cells[0][:512])
        if not text.isascii() and self._undecodable.search(text):
            return Reject(number, "bad_encoding", "the line cannot be decoded: set the encoding in the mapping")
        return None

    def _spans_rows(self, lines: list[str]) -> bool:
        """Return whether a closed field spans lines that look like rows, so that a quote must be missing above."""
        rows = lines[1:]
        return len(rows) >= 5 and all(row.count(self.delimiter) == self._width - 1 >= 1 for row in rows)

    def _quoted(self, text: str) -> tuple[list[str], list[str] | None]:
        """Return the lines of a record with quotes, and its cells; None for cells if its quotes are malformed."""
        delimiter, lines, cells = self.delimiter, [text], list[str]()
        size, position = len(text), 0
        while True:
            if text.startswith('"', position):
                close = _match_end(text, position + 1)
                parts = [text[position + 1 : close]]
                while close == len(text):  # the field continues on the next line
                    next_line = next(self._lines, None) if size <= MAX_RECORD else None
                    if next_line is None:
                        return lines, None
                    text = next_line[1]
                    lines.append(text)
                    size += len(text)
                    close = _match_end(text, 0)
                    parts.append(text[:close])
                after = self._after_quote.match(text, close)
                if after:
                    cells.append("".join(parts).replace('""', '"'))
                    if not text.startswith(delimiter, after.end()):
                        return lines, cells
                    position = after.end() + len(delimiter)
                    continue
                if len(parts) > 1:  # the quote belongs to a later row: this is not one field
                    return lines, None
            end = text.find(delimiter, position)
            if end < 0:
                cells.append(text[position:].rstrip("\r\n"))
                return lines, cells
            cells.append(text[position:end])
            position = end + len(delimiter)


class _Lines:
    """Numbered lines of a stream, each at most MAX_RECORD + 1 long; lines can be pushed back to be read again."""

    def __init__(self, stream: TextIO) -> None:
        self._unread = numbered_lines(stream)
        self._returned: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self

    def __next__(self) -> tuple[int, str]:
        return self._returned.popleft() if self._returned else next(self._unread)

    def push_back(self, number: int, lines: list[str]) -> None:
        self._returned.extendleft(reversed(list(enumerate(lines, number))))


def numbered_lines(stream: TextIO) -> Iterator[tuple[int, str]]:
    """Yield lines with their numbers; of a line longer than MAX_RECORD, the first MAX_RECORD + 1 characters."""
    number = 0
    while text := stream.readline(MAX_RECORD + 1):
        number += 1
        rest = text
        while len(rest) > MAX_RECORD and rest[-1] not in "\r\n":  # skip the rest of the line
            rest = stream.readline(MAX_RECORD + 1)
        yield number, text


# Text up to the quote that closes a field; doubled quotes are text. Possessive, so it never backtracks.
_FIELD = re.compile(r'[^"]*+(?:""[^"]*+)*+')


def _match_end(text: str, position: int) -> int:
    match = _FIELD.match(text, position)
    return match.end() if match else position


def _sniff(header: str) -> str:
    bare = re.sub(r'"[^"]*"', "", header)
    return max(DELIMITERS, key=bare.count)  # the first of equals: a comma
