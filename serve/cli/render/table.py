"""A table that fits the width of the terminal without losing a value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

MIN_FLEXIBLE = 8  # characters that a flexible column keeps


@dataclass(frozen=True)
class Column:
    """A column. At most one is flexible: it gets narrower where the terminal is narrow.

    Its text then ends in an ellipsis, or with `wrap` goes on in further lines.
    """

    name: str
    justify: Literal["left", "right"] = "left"
    style: str = ""
    flexible: bool = False
    wrap: bool = False
    max_width: int | None = None


class FittedTable:
    """A table whose flexible column gives way where room is short.

    Where the other columns alone are too wide, each row becomes a paragraph of its named values instead.
    """

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[str | Text]]) -> None:
        self._columns = columns
        self._rows = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table(None)
        width = Measurement.get(console, options.update(max_width=10_000), table).maximum
        excess = width - options.max_width
        if excess <= 0:
            yield table
            return
        flexible = next((index for index, column in enumerate(self._columns) if column.flexible), None)
        if flexible is not None and self._width(flexible) - excess >= MIN_FLEXIBLE:
            yield self._table(self._width(flexible) - excess)
            return
        for row in self._rows:
            yield self._paragraph(row)

    def _table(self, flexible_width: int | None) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for index, column in enumerate(self._columns):
            width = flexible_width if column.flexible and flexible_width is not None else self._width(index)
            table.add_column(
                column.name,
                justify=column.justify,
                style=column.style,
                no_wrap=not column.wrap,
                overflow="fold" if column.wrap else "ellipsis",
                min_width=width,
                max_width=width,
            )
        for row in self._rows:
            table.add_row(*row)
        return table

    def _width(self, index: int) -> int:
        column = self._columns[index]
        widest = max([Text(column.name).cell_len, *(row[index].cell_len for row in self._rows)])
        return widest if column.max_width is None else min(widest, column.max_width)

    def _paragraph(self, row: Sequence[Text]) -> Text:
        values = [
            Text.assemble((f"{column.name} " if column.name else "", "dim"), cell)
            for column, cell in zip(self._columns, row, strict=True)
            if cell.plain
        ]
        paragraph = Text("  ").join(values)
        paragraph.overflow = "fold"
        return paragraph
