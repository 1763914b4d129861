"""Map item ids (text) to item indices and back through memory-mapped files, without a dictionary in every process."""

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.array_file import load_array
from index.errors import IndexDamaged, IndexMissing, InvalidQuery

SCHEMA = pa.schema([("item_id", pa.string())])


class ItemIds:
    """n distinct item ids; the item index of an id is its position. All processes share the memory-mapped files."""

    def __init__(self, ids: pa.StringArray, order: NDArray[np.int64], hashes: NDArray[np.uint64]) -> None:
        self._ids = ids
        self._order, self._hashes = np.asarray(order), np.asarray(hashes)  # slicing a memmap costs microseconds

    def __len__(self) -> int:
        return len(self._ids)

    def item_id(self, item_index: int) -> str:
        """Return the id of an item; raises IndexError for an index that no item has, such as -1."""
        if not 0 <= item_index < len(self):
            raise IndexError(f"item index {item_index} is outside 0..{len(self) - 1}")
        item_id: str = self._ids[item_index].as_py()
        return item_id

    def item_index(self, item_id: str) -> int | None:
        """Return the item index of an id, or None if there is no such item."""
        hashed = np.uint64(_hash(item_id))  # a plain int would convert all hashes to floats first
        position = int(self._hashes.searchsorted(hashed))
        while position < len(self._hashes) and self._hashes[position] == hashed:
            item_index = int(self._order[position])
            if self.item_id(item_index) == item_id:
                return item_index
            position += 1
        return None


def write_item_ids(folder: Path, ids: Iterable[str]) -> int:
    """Write ids.arrow and ids_order.npy into `folder`; return their number; raises InvalidQuery for a repeated id."""
    listed = list(ids)
    hashes = np.fromiter((_hash(item_id) for item_id in listed), np.uint64, len(listed))
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    repeated = np.flatnonzero(ordered[1:] == ordered[:-1])  # different ids may share a hash: compare these as text
    suspects = Counter(listed[position] for position in order[np.union1d(repeated, repeated + 1)])
    for item_id, count in suspects.most_common(1):
        if count > 1:
            raise InvalidQuery(f"item id {item_id!r} appears twice", "item_id")
    batch = pa.record_batch([pa.array(listed, pa.string())], schema=SCHEMA)
    with pa.OSFile(str(folder / "ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(batch)
    np.save(folder / "ids_order.npy", np.stack([ordered, order.astype(np.uint64)]), allow_pickle=False)
    return len(listed)


def open_item_ids(folder: Path) -> ItemIds:
    """Memory-map what `write_item_ids` wrote; raises IndexMissing or IndexDamaged, which name the file."""
    path = folder / "ids.arrow"
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except FileNotFoundError as error:
        raise IndexMissing(f"{path} is missing", path.name) from error
    except (pa.ArrowException, ValueError, OSError) as error:
        raise IndexDamaged(f"{path} cannot be read ({error})", path.name) from error
    if batch.schema != SCHEMA:
        raise IndexDamaged(f"{path} holds {batch.schema}, expected item ids", path.name)
    hashes, order = load_array(folder / "ids_order.npy", np.uint64, (2, len(batch)))
    return ItemIds(batch.column(0), order.view(np.int64), hashes)


def _hash(item_id: str) -> int:
    return int.from_bytes(blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
