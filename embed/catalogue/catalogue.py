"""The catalogue on disk: cleaned items in one Arrow file, memory-mapped, read by row, column or batch."""

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
    """Items in feed order; `version` names their content. Opening costs no memory: rows are read where they lie."""

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
        """The catalogue the store's last ingest published; raises Missing if there was none."""
        link = store / "catalogue" / "current"
        if not link.is_dir():
            raise Missing(f"{store} holds no catalogue yet: ingest a feed first", "store")
        return cls.open(link)

    @classmethod
    def open(cls, path: Path) -> "Catalogue":
        """The catalogue in a version's folder; raises Missing, or Damaged for a file cut or of another build."""
        folder = path.resolve()
        file = folder / ITEMS_FILE
        if not file.is_file():
            raise Missing(f"there is no catalogue {path}", "catalogue")
        try:
            table = pa.ipc.open_file(pa.memory_map(str(file))).read_all()
            table.validate()
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{file} is cut or altered ({error}); ingest the feed again", "catalogue") from error
        if not table.schema.equals(ITEM_SCHEMA):
            raise Damaged(f"{file} was written with other columns than this version reads; ingest the feed again")
        return cls(folder, table)

    def __len__(self) -> int:
        return self._starts[-1]

    def item(self, row: int) -> Item:
        """The item in a row, from 0; raises IndexError beyond the last."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a catalogue of {len(self)}")
        batch = bisect_right(self._starts, row) - 1
        offset = row - self._starts[batch]
        return _item(*(column[offset].as_py() for column in self._columns[batch]))

    def ids(self) -> Any:
        """Every item's id, in order: a pyarrow.ChunkedArray of strings."""
        return self.column("item_id")

    def column(self, name: str) -> Any:
        """One column of ITEM_SCHEMA as a pyarrow.ChunkedArray, without copying; KeyError if there is none such."""
        return self._table.column(name)

    def batches(self) -> Iterator[list[Item]]:
        """All items in order, some thousands at a time."""
        for batch in self._batches:
            yield as_items(batch)

    def record_batches(self) -> Iterator[Any]:
        """The same as pyarrow.RecordBatches."""
        yield from self._batches

    @property
    def table(self) -> Any:
        """All items as a pyarrow.Table with the columns of ITEM_SCHEMA, where they lie."""
        return self._table


def as_items(batch: Any) -> list[Item]:
    """The items of a pyarrow.RecordBatch with the columns of ITEM_SCHEMA."""
    return [_item(*row) for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]


def as_batch(items: Sequence[Item]) -> Any:
    """Items as a pyarrow.RecordBatch with the columns of ITEM_SCHEMA."""
    rows = [{**asdict(item), "attributes": list(item.attributes.items())} for item in items]
    return pa.RecordBatch.from_pylist(rows, schema=ITEM_SCHEMA)


def _item(*values: Any) -> Item:
    item = Item(*values)
    item.attributes = dict(values[8])  # a map reads as pairs
    return item
