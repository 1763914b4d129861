"""Item ids: text on the outside, numbers on the inside, both ways without holding a dictionary in every process."""

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.array_file import load_array
from index.errors import BadQuery, Damaged, Missing

SCHEMA = pa.schema([("item_id", pa.string())])


class ItemIds:
    """n distinct ids; an id's number is its position. Files are memory-mapped, so workers share them."""

    def __init__(self, ids: pa.StringArray, order: NDArray[np.int64], hashes: NDArray[np.uint64]) -> None:
        self._ids = ids
        self._order, self._hashes = np.asarray(order), np.asarray(hashes)  # a memmap's every slice costs microseconds

    def __len__(self) -> int:
        return len(self._ids)

    def text(self, number: int) -> str:
        """The id with this number; raises IndexError for a number that no item has, -1 among them."""
        if not 0 <= number < len(self):
            raise IndexError(f"number {number} of {len(self)} ids")
        item_id: str = self._ids[number].as_py()
        return item_id

    def item_index(self, item_id: str) -> int | None:
        """The number of this id, or None where there is no such item."""
        wanted = np.uint64(_hash(item_id))  # a plain int would turn all hashes into floats first
        at = int(self._hashes.searchsorted(wanted))
        while at < len(self._hashes) and self._hashes[at] == wanted:
            number = int(self._order[at])
            if self.text(number) == item_id:
                return number
            at += 1
        return None


def write_ids(folder: Path, ids: Iterable[str]) -> int:
    """Write ids.arrow and ids_order.npy into `folder`; returns how many. Raises BadQuery for an id that comes twice."""
    listed = list(ids)
    hashes = np.fromiter((_hash(item_id) for item_id in listed), np.uint64, len(listed))
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    again = np.flatnonzero(ordered[1:] == ordered[:-1])  # different ids may share a hash, so these are only suspects
    suspects = Counter(listed[number] for number in order[np.union1d(again, again + 1)])
    for item_id, count in suspects.most_common(1):
        if count > 1:
            raise BadQuery(f"item id {item_id!r} comes twice", "item_id")
    batch = pa.record_batch([pa.array(listed, pa.string())], schema=SCHEMA)
    with pa.OSFile(str(folder / "ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(batch)
    np.save(folder / "ids_order.npy", np.stack([ordered, order.astype(np.uint64)]), allow_pickle=False)
    return len(listed)


def open_ids(folder: Path) -> ItemIds:
    """Memory-map what `write_ids` wrote; raises Missing or Damaged naming the file."""
    path = folder / "ids.arrow"
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    except FileNotFoundError as error:
        raise Missing(f"{path} is missing", path.name) from error
    except (pa.ArrowException, ValueError, OSError) as error:
        raise Damaged(f"{path} cannot be read ({error})", path.name) from error
    if batch.schema != SCHEMA:
        raise Damaged(f"{path} holds {batch.schema}, not item ids", path.name)
    hashes, order = load_array(folder / "ids_order.npy", np.uint64, (2, len(batch)))
    return ItemIds(batch.column(0), order.view(np.int64), hashes)


def _hash(item_id: str) -> int:
    return int.from_bytes(blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
