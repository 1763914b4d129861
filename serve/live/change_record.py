"""One live change of an item, as the journal stores it."""

import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from embed.catalogue import Edit, Item, ItemChange
from embed.vector_store import KEY_BYTES
from index.errors import IndexDamaged
from index.journal import JournalRecord
from index.space import Vectors
from serve.release.release import Release
from serve.release.snapshot import ItemVectors

_LENGTH = struct.Struct("<I")
UNKNOWN_KEY = bytes(KEY_BYTES)  # of a vector copied from the release, which the vector store has already


@dataclass(frozen=True)
class EncodedRows:
    """An item's rows in a space, as the journal stores them: the encoder's fingerprint, and a key for each content."""

    fingerprint: str
    labels: list[int]
    keys: list[bytes]
    vectors: Vectors


@dataclass(frozen=True)
class LiveChange:
    """One change of one item. `rows` by space are None where the content that encoders read is unchanged."""

    kind: Literal["put", "patch", "delete"]
    item_id: str
    item: Item | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, EncodedRows] | None = None

    def to_bytes(self) -> bytes:
        """Serialize the change as the payload of a journal record."""
        spaces = None
        vectors = b""
        if self.rows is not None:
            spaces = {
                name: {
                    "fingerprint": rows.fingerprint,
                    "labels": rows.labels,
                    "keys": [key.hex() for key in rows.keys],
                    "dim": rows.vectors.shape[1],
                }
                for name, rows in self.rows.items()
            }
            vectors = b"".join(np.ascontiguousarray(rows.vectors, "<f4").tobytes() for rows in self.rows.values())
        header = orjson.dumps(
            {
                "kind": self.kind,
                "item_id": self.item_id,
                "item": asdict(self.item) if self.item else None,
                "fields": self.fields,
                "spaces": spaces,
            }
        )
        return _LENGTH.pack(len(header)) + header + vectors

    def edit(self, record: JournalRecord) -> Edit:
        """Return the change as an edit of the catalogue."""
        change: ItemChange = {"put": self.item, "patch": self.fields, "delete": None}[self.kind]
        return Edit(record.sequence, record.at, self.item_id, change)

    @classmethod
    def from_record(cls, record: JournalRecord) -> "LiveChange":
        """Read the change of a record; raises IndexDamaged for a record in another format."""
        data = record.payload
        try:
            (length,) = _LENGTH.unpack_from(data)
            header = orjson.loads(data[_LENGTH.size : _LENGTH.size + length])
            offset = _LENGTH.size + length
            rows: dict[str, EncodedRows] | None = None
            if header["spaces"] is not None:
                rows = {}
                for name, space in header["spaces"].items():
                    count, dim = len(space["labels"]), space["dim"]
                    vectors = np.frombuffer(data, "<f4", count * dim, offset).reshape(count, dim)
                    offset += 4 * count * dim
                    keys = [bytes.fromhex(key) for key in space["keys"]]
                    rows[name] = EncodedRows(space["fingerprint"], space["labels"], keys, vectors)
            item = Item(**header["item"]) if header["item"] else None
            return cls(header["kind"], header["item_id"], item, header["fields"], rows)
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise IndexDamaged(
                f"journal record {record.sequence} is not a valid change of an item ({error})", "journal"
            ) from error


def journal_folder(store: Path) -> Path:
    """Return the folder of a store's journal."""
    return store / "journal"


def usable_rows(release: Release, change: LiveChange) -> dict[str, ItemVectors] | None:
    """Return a change's rows by space of a release; None without rows, or where other encoders made them."""
    if change.rows is None or change.rows.keys() != release.manifest.spaces.keys():
        return None
    for name, entry in release.manifest.spaces.items():
        if change.rows[name].fingerprint != entry.fingerprint:
            return None
    return {name: ItemVectors(rows.labels, rows.vectors) for name, rows in change.rows.items()}
