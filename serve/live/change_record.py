"""One live change as the journal stores it."""

import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from embed.catalogue import Change, Edit, Item
from embed.vector_store import KEY_BYTES
from index.errors import Damaged
from index.journal import Record
from index.space import Vectors
from serve.release.release import Release
from serve.release.snapshot import ItemVectors

_LENGTH = struct.Struct("<I")
UNKNOWN_KEY = bytes(KEY_BYTES)  # of a vector taken over from the release, which the vector store has anyway


@dataclass(frozen=True)
class SpaceRows:
    """An item's rows in a space as the journal keeps them: also by which encoder, and the key of each content."""

    fingerprint: str
    labels: list[int]
    keys: list[bytes]
    vectors: Vectors


@dataclass(frozen=True)
class LiveChange:
    """One change of one item. `rows` by space are None where what encoders read of the item stayed the same."""

    kind: Literal["put", "patch", "delete"]
    item_id: str
    item: Item | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, SpaceRows] | None = None

    def to_bytes(self) -> bytes:
        """The change as a record of the journal."""
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
        head = orjson.dumps(
            {
                "kind": self.kind,
                "item_id": self.item_id,
                "item": asdict(self.item) if self.item else None,
                "fields": self.fields,
                "spaces": spaces,
            }
        )
        return _LENGTH.pack(len(head)) + head + vectors

    def edit(self, record: Record) -> Edit:
        """What the change does to the catalogue."""
        change: Change = {"put": self.item, "patch": self.fields, "delete": None}[self.kind]
        return Edit(record.sequence, record.at, self.item_id, change)

    @classmethod
    def from_record(cls, record: Record) -> "LiveChange":
        """The change that a record holds; raises Damaged for one that another version wrote."""
        data = record.payload
        try:
            (length,) = _LENGTH.unpack_from(data)
            head = orjson.loads(data[_LENGTH.size : _LENGTH.size + length])
            at = _LENGTH.size + length
            rows: dict[str, SpaceRows] | None = None
            if head["spaces"] is not None:
                rows = {}
                for name, space in head["spaces"].items():
                    count, dim = len(space["labels"]), space["dim"]
                    vectors = np.frombuffer(data, "<f4", count * dim, at).reshape(count, dim)
                    at += 4 * count * dim
                    keys = [bytes.fromhex(key) for key in space["keys"]]
                    rows[name] = SpaceRows(space["fingerprint"], space["labels"], keys, vectors)
            item = Item(**head["item"]) if head["item"] else None
            return cls(head["kind"], head["item_id"], item, head["fields"], rows)
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"record {record.sequence} of the journal is no change of an item ({error})", "journal"
            ) from error


def journal_folder(store: Path) -> Path:
    return store / "journal"


def rows_for(release: Release, change: LiveChange) -> dict[str, ItemVectors] | None:
    """A change's rows in the spaces of a release, or None where they were made by other encoders or are not there."""
    if change.rows is None or change.rows.keys() != release.manifest.spaces.keys():
        return None
    for name, entry in release.manifest.spaces.items():
        if change.rows[name].fingerprint != entry.fingerprint:
            return None
    return {name: ItemVectors(rows.labels, rows.vectors) for name, rows in change.rows.items()}
