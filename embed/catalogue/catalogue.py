"""The catalogue on disk: cleaned items in one memory-mapped Arrow file, read by row, column or batch."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from embed.catalogue.item import ITEM_SCHEMA, Item
from embed.errors import Damaged, Missing

ITEMS_FILE = "items.arrow"


class Catalogue:
    """Items in feed order; `version` identifies their content. Opening takes no memory: rows are read in place."""

    def __init__(self, folder: Path, table: Any) -> None:
        self.version = folder.name
        self.file = folder / ITEMS_FILE
        self._table = table
        self._batches = table.to_batches()
        self._columns = [batch.columns for batch in self._batches]
        self._starts = [0]
        for batch in self._batches:
            self._starts.append(self._starts[-1] + batch.num_rows)

    @classmethod
    def current(cls, store: Path) -> "Catalogue":
        """Open the catalogue that the store's last ingest published; raises Missing if there is none."""
        link = store / "catalogue" / "current"
        if not link.is_dir():
            raise Missing(f"store {store} has no catalogue: ingest a feed first", "store")
        return cls.open(link)

    @classmethod
    def open(cls, path: Path) -> "Catalogue":
        """Open the catalogue in a version's folder; raises Missing, or Damaged for a truncated or incompatible file."""
        folder = path.resolve()
        file = folder / ITEMS_FILE
        if not file.is_file():
            raise Missing(f"catalogue {path} does not exist", "catalogue")
        try:
            table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            table.validate()
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{file} is truncated or altered ({error}): ingest the feed again", "catalogue") from error
        if not table.schema.equals(ITEM_SCHEMA):
            raise Damaged(f"{file} does not have the columns that this version reads: ingest the feed again")
        return cls(folder, table)

    def __len__(self) -> int:
        return self._starts[-1]

    def item(self, row: int) -> Item:
        """Return the item in a row, counted from 0; raises IndexError beyond the last row."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a catalogue of {len(self)}")
        batch = bisect_right(self._starts, row) - 1
        offset = row - self._starts[batch]
        return _item(*(column[offset].as_py() for column in self._columns[batch]))

    def ids(self) -> Any:
        """Return the ids of all items in order, as a pyarrow.ChunkedArray of strings."""
        return self.column("item_id")

    def column(self, name: str) -> Any:
        """Return a column of ITEM_SCHEMA as a pyarrow.ChunkedArray, without copying; raises KeyError."""
        return self._table.column(name)

    def batches(self) -> Iterator[list[Item]]:
        """Yield all items in order, in lists of some thousands."""
        for batch in self._batches:
            yield as_items(batch)

    def items(self) -> Iterator[Item]:
        """Yield all items in order."""
        for batch in self.batches():
            yield from batch

    def record_batches(self) -> Iterator[Any]:
        """Yield all items in order, as pyarrow.RecordBatches."""
        yield from self._batches

    @property
    def table(self) -> Any:
        """All items as a pyarrow.Table with the columns of ITEM_SCHEMA, read in place."""
        return self._table


def as_items(batch: Any) -> list[Item]:
    """Convert a pyarrow.RecordBatch with the columns of ITEM_SCHEMA to items."""
    return [_item(*row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]


def as_batch(items: Sequence[Item]) -> Any:
    """Convert items to a pyarrow.RecordBatch with the columns of ITEM_SCHEMA."""
    rows = [{**asdict(item), "attributes": list(item.attributes.items())} for item in items]
    return pa.RecordBatch.from_pylist(rows, schema=ITEM_SCHEMA)


def _item(*values: Any) -> Item:
    item = Item(*values)
    item.attributes = dict(values[8])  # a map reads as pairs
    return item
