"""CSV and TSV: rows from decoded lines, keeping everything that can be kept of a broken file.

The rules beyond RFC 4180:

- a quote that does not start a field, or does not end it, is literal text;
- a row with more or fewer cells than the header is rejected by its line;
- a quoted field that is never closed, or that swallows lines until nothing fits, costs only the line it started on:
  reading resumes at the next line. (So a broken row of several lines may be rejected once a line.)
"""

import re
from collections import Counter, deque
from collections.abc import Iterator
from typing import TextIO

from embed.errors import BadInput
from embed.records.record import MAX_RECORD, Record, Reject

DELIMITERS = ",;\t|"


class DelimitedReader:
    """The records of a delimited text; `columns` is its header, empty if the text is.

    `stream` is open with `newline=""`, and `undecodable` finds what its decoder put where bytes made no sense.
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
                if len(split) == width and text.isascii() and len(text) <= MAX_RECORD:  # nearly all
                    yield Record(number, dict(zip(columns, split, strict=False)))
                    continue
                lines: list[str] = [text]
                cells: list[str] | None = split
            else:
                lines, cells = self._quoted(text)
            fault = self._fault(number, lines, cells)
            if fault is not None:
                self._lines.give_back(number + 1, lines[1:])
                yield fault
            elif cells is not None:
                yield Record(number, dict(zip(columns, cells, strict=True)))

    def _header(self, first: str) -> tuple[str, ...]:
        lines, cells = self._quoted(first)
        text = "".join(lines)
        if cells is None or len(text) > MAX_RECORD or self._undecodable.search(text) or "\0" in text:
            raise BadInput(
                "the header line cannot be read as text: name its encoding in the mapping, "
                'for example encoding = "latin-1" or "utf-16-le"',
                "encoding",
            )
        names: dict[str, None] = {}
        times: Counter[str] = Counter()
        for position, cell in enumerate(cells, 1):
            name = given = cell.strip() or f"column {position}"
            times[given] += 1
            while name in names:
                name = f"{given} ({times[given]})"
                times[given] += name in names
            names[name] = None
        return tuple(names)

    def _fault(self, number: int, lines: list[str], cells: list[str] | None) -> Reject | None:
        text = lines[0] if len(lines) == 1 else "".join(lines)
        if cells is None or self._swallowed(lines):
            return Reject(number, "bad_quotes", "a quoted field is not closed")
        if len(text) > MAX_RECORD:
            return Reject(number, "too_long", f"the record is longer than {MAX_RECORD} characters")
        if len(cells) != self._width:
            code = "long_row" if len(cells) > self._width else "short_row"
            return Reject(number, code, f"{len(cells)} cells where the header has {self._width}", cells[0][:512])
        if not text.isascii() and self._undecodable.search(text):
            return Reject(number, "bad_encoding", "the line cannot be decoded; name the encoding in the mapping")
        return None

    def _swallowed(self, lines: list[str]) -> bool:
        """Whether a field that did end runs over lines that each look like a row: a quote is missing further up."""
        rows = lines[1:]
        return len(rows) >= 5 and all(row.count(self.delimiter) == self._width - 1 >= 1 for row in rows)

    def _quoted(self, text: str) -> tuple[list[str], list[str] | None]:
        """The lines a record with quotes takes up, and its cells; no cells if its quotes make no sense."""
        delimiter, lines, cells = self.delimiter, [text], list[str]()
        size, position = len(text), 0
        while True:
            if text.startswith('"', position):
                close = _match_end(text, position + 1)
                parts = [text[position + 1 : close]]
                while close == len(text):  # the field goes on in the next line
                    following = next(self._lines, None) if size <= MAX_RECORD else None
                    if following is None:
                        return lines, None
                    text = following[1]
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
                if len(parts) > 1:  # a quote further down the file: this is not one field
                    return lines, None
            end = text.find(delimiter, position)
            if end < 0:
                cells.append(text[position:].rstrip("\r\n"))
                return lines, cells
            cells.append(text[position:end])
            position = end + len(delimiter)


class _Lines:
    """Numbered lines of a stream, each at most MAX_RECORD + 1 long, that can be given back to be read again."""

    def __init__(self, stream: TextIO) -> None:
        self._fresh = numbered_lines(stream)
        self._returned: deque[tuple[int, str]] = deque()

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return self

    def __next__(self) -> tuple[int, str]:
        return self._returned.popleft() if self._returned else next(self._fresh)

    def give_back(self, number: int, lines: list[str]) -> None:
        self._returned.extendleft(reversed(list(enumerate(lines, number))))


def numbered_lines(stream: TextIO) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; of one longer than MAX_RECORD, its first MAX_RECORD + 1 characters."""
    number = 0
    while text := stream.readline(MAX_RECORD + 1):
        number += 1
        rest = text
        while len(rest) > MAX_RECORD and rest[-1] not in "\r\n":  # skip what is left of the line
            rest = stream.readline(MAX_RECORD + 1)
        yield number, text


# Everything up to the quote that closes a field; doubled quotes are text. Possessive, so it never backtracks.
_FIELD = re.compile(r'[^"]*+(?:""[^"]*+)*+')


def _match_end(text: str, position: int) -> int:
    match = _FIELD.match(text, position)
    return match.end() if match else position


def _sniff(header: str) -> str:
    bare = re.sub(r'"[^"]*"', "", header)
    return max(DELIMITERS, key=bare.count)  # the first of equals: a comma
