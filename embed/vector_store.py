"""Vectors on disk, keyed by content: what an encoder has encoded once is never encoded again.

Each space and encoder fingerprint has a folder of numbered parts. A part is an Arrow file of (key, vector) rows, moved
into place in one atomic step. The key is the hash of the content, so an image or text that several items share is
stored once, and an item that moves keeps its vectors. A part's name carries the hash of its bytes; a truncated or
altered part is refused by name.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embed.durable import move_into_place
from embed.encoders.encoder import Vectors
from embed.errors import Damaged, Missing

KEY_BYTES = 16
Keys = NDArray[np.void]  # [n] of KEY_BYTES bytes each


def content_key(text: str) -> bytes:
    """Return the key of a text: BLAKE2b of its UTF-8 bytes."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def as_keys(keys: Iterable[bytes]) -> Keys:
    """Return keys as an array [n]."""
    return np.frombuffer(b"".join(keys), dtype=f"V{KEY_BYTES}")


class KeySet:
    """A set of keys [n] in one sorted array, compact enough to send to worker processes."""

    def __init__(self, keys: Keys) -> None:
        # As text, because NumPy does not compare raw bytes. It drops trailing zeros on both sides of a comparison.
        self._keys = np.sort(keys.view(f"S{KEY_BYTES}"))

    def __contains__(self, key: bytes) -> bool:
        position = int(np.searchsorted(self._keys, np.bytes_(key)))
        return bool(np.any(self._keys[position : position + 1] == np.bytes_(key)))


class KeyTable(NamedTuple):
    """Where the vectors of n keys are stored."""

    heads: NDArray[np.uint64]  # [n], the first half of each key, sorted
    tails: NDArray[np.uint64]  # [n], the second half
    locations: NDArray[np.int32]  # [n, 2], part and row in it


class VectorStore:
    """The vectors of one space made by one encoder. One writer at a time; readers see complete parts only."""

    def __init__(self, store: Path, space: str, fingerprint: str, dim: int) -> None:
        self.folder = store / "vectors" / space / fingerprint
        self.dim = dim
        self._schema = pa.schema([("key", pa.binary(KEY_BYTES)), ("vector", pa.list_(pa.float32(), dim))])
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("*.tmp"):
            leftover.unlink()
        self._parts = sorted(self.folder.glob("*.arrow"))
        # Each table is at most half as large as the one before, so that adding a part does not sort all keys again.
        # The list is replaced as a whole, because threads look keys up while a part is added.
        self._tables: list[KeyTable] = []
        if self._parts:
            self._index(range(len(self._parts)))

    def __len__(self) -> int:
        return sum(len(table.heads) for table in self._tables)

    def keys(self) -> Keys:
        """Return the keys of all vectors, in no particular order."""
        halves = [np.stack([table.heads, table.tails], 1) for table in self._tables]
        joined = np.concatenate([np.empty((0, 2), np.uint64), *halves])
        return np.ascontiguousarray(joined).view(f"V{KEY_BYTES}")[:, 0]

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which of n keys have a vector, [n]."""
        contained: NDArray[np.bool_] = self._locate(keys)[:, 0] >= 0
        return contained

    def append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        """Add n new keys with their vectors [n, dim] as one part; after a crash it is complete or absent."""
        if vectors.shape != (len(keys), self.dim):
            raise ValueError(f"{len(keys)} keys need vectors [{len(keys)}, {self.dim}], not {list(vectors.shape)}")
        flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
        columns = [pa.array(keys, pa.binary(KEY_BYTES)), pa.FixedSizeListArray.from_arrays(flat, self.dim)]
        fresh = self.folder / "part.tmp"
        with pa.OSFile(str(fresh), "wb") as sink, pa.ipc.new_file(sink, self._schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=self._schema))
        part = self.folder / f"{len(self._parts):08d}-{_hash_file(fresh)}.arrow"
        move_into_place(fresh, part)
        self._parts.append(part)
        self._index([len(self._parts) - 1])

    def gather(self, keys: Keys, out: Vectors) -> None:
        """Copy the vectors of n keys into `out` [n, dim], part by part, so that memory holds one part at a time."""
        locations = self._locate(keys)
        missing = int((locations[:, 0] < 0).sum())
        if missing:
            raise Missing(f"{missing} of {len(keys)} vectors are not in {self.folder}: encode first")
        order = np.lexsort((locations[:, 1], locations[:, 0]))
        starts = np.searchsorted(locations[order, 0], np.arange(len(self._parts) + 1))
        for part, path in enumerate(self._parts):
            rows = order[starts[part] : starts[part + 1]]
            if len(rows):
                _check(path)
                out[rows] = self._read(path, "vector").reshape(-1, self.dim)[locations[rows, 1]]

    def check(self) -> None:
        """Raise Damaged, naming the file, unless every part is what was written."""
        for path in self._parts:
            _check(path)

    def _index(self, parts: Iterable[int]) -> None:
        keys = [self._read(self._parts[part], "key") for part in parts]
        halves = np.concatenate(keys).view(np.uint64).reshape(-1, 2)  # [n, 2]
        locations = [
            np.stack([np.full(len(rows), part), np.arange(len(rows))], 1)
            for part, rows in zip(parts, keys, strict=True)
        ]
        tables = [*self._tables, KeyTable(halves[:, 0], halves[:, 1], np.concatenate(locations).astype(np.int32))]
        start = len(tables) - 1
        while start and len(tables[start - 1].heads) < 2 * sum(len(table.heads) for table in tables[start:]):
            start -= 1
        self._tables = [*tables[:start], _merge_sorted(tables[start:])]

    def _locate(self, keys: Keys) -> NDArray[np.int32]:
        """Return part and row of n keys, [n, 2]; -1 for a key without a vector.

        Two keys that share only their first 64 bits (probability one in a million at ten million vectors) count as
        absent: such an item is encoded again at every run and then reported missing, never given another item's vector.
        """
        locations = np.full((len(keys), 2), -1, np.int32)
        halves = keys.view(np.uint64).reshape(-1, 2)
        for table in self._tables:
            at = np.searchsorted(table.heads, halves[:, 0]).clip(max=len(table.heads) - 1)
            same = (table.heads[at] == halves[:, 0]) & (table.tails[at] == halves[:, 1])
            locations[same] = table.locations[at[same]]
        return locations

    def _read(self, path: Path, column: str) -> NDArray[np.generic]:
        try:
            with pa.memory_map(str(path)) as source:
                batch = pa.ipc.open_file(source).get_batch(0)
                if batch.schema != self._schema:
                    raise Damaged(f"{path} holds {batch.schema}, not vectors of dimension {self.dim}", path.name)
                array = batch.column(column)
                if column == "key":
                    return np.frombuffer(array.buffers()[1], dtype=f"V{KEY_BYTES}")[: len(array)].copy()
                return np.asarray(array.flatten().to_numpy(zero_copy_only=True)).copy()
        except (pa.ArrowInvalid, OSError) as error:
            raise Damaged(f"{path} cannot be read ({error}): delete it and encode again", path.name) from error


def _merge_sorted(tables: Sequence[KeyTable]) -> KeyTable:
    heads, tails, locations = (np.concatenate(columns) for columns in zip(*tables, strict=True))
    order = np.argsort(heads, kind="stable")
    return KeyTable(heads[order], tails[order], locations[order])


def _check(path: Path) -> None:
    if _hash_file(path) != path.stem.partition("-")[2]:
        raise Damaged(f"{path} is not what was written: delete it and encode again", path.name)


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()
