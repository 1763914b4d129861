"""Item ids: text on the outside, numbers on the inside, both ways without holding a dictionary in every process."""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.errors import BadQuery, Damaged, Missing


class ItemIds:
    """n distinct ids; an id's number is its position. Files are memory-mapped, so workers share them."""

    def __init__(self, ids: pa.StringArray, order: NDArray[np.int64], hashes: NDArray[np.uint64]) -> None:
        self._ids, self._order, self._hashes = ids, order, hashes

    def __len__(self) -> int:
        return len(self._ids)

    def text(self, number: int) -> str:
        """The id with this number."""
        item_id: str = self._ids[number].as_py()
        return item_id

    def number(self, item_id: str) -> int | None:
        """The number of this id, or None where there is no such item."""
        wanted = _hash(item_id)
        at = int(np.searchsorted(self._hashes, wanted))
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
    for at in np.flatnonzero(ordered[1:] == ordered[:-1]):
        first, second = listed[order[at]], listed[order[at + 1]]
        if first == second:
            raise BadQuery(f"item id {first!r} comes twice", "item_id")
    batch = pa.record_batch([pa.array(listed, pa.string())], names=["item_id"])
    with pa.OSFile(str(folder / "ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    np.save(folder / "ids_order.npy", np.stack([ordered, order.astype(np.uint64)]), allow_pickle=False)
    return len(listed)


def open_ids(folder: Path) -> ItemIds:
    """Memory-map what `write_ids` wrote; raises Missing or Damaged naming the file."""
    try:
        ids = pa.ipc.open_file(pa.memory_map(str(folder / "ids.arrow"))).get_batch(0).column(0)
        table = np.load(folder / "ids_order.npy", mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise Missing(f"{folder} has no ids ({error})", "ids.arrow") from error
    except (pa.ArrowInvalid, ValueError, OSError) as error:
        raise Damaged(f"the ids in {folder} cannot be read ({error})", "ids.arrow") from error
    if table.dtype != np.uint64 or table.shape != (2, len(ids)):
        raise Damaged(f"ids_order.npy has shape {list(table.shape)} for {len(ids)} ids", "ids_order.npy")
    return ItemIds(ids, table[1].view(np.int64), table[0])


def _hash(item_id: str) -> int:
    return int.from_bytes(blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
