"""Live changes: what a caller puts, patches or deletes, encoded, as records of the journal, and into the next build."""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson

from embed.catalogue import Catalogue, Change, Edit, IngestReport, Item, current_edits, fold, read_report
from embed.compose import compose_texts
from embed.encoders import ImageEncoder, TextEncoder
from embed.errors import EmbedError
from embed.images import ImageRefused, ImageSource, decode_image
from embed.vector_store import KEY_BYTES, VectorStore, as_keys, content_key
from index.errors import Damaged
from index.journal import Journal, Record, prune, segment_starts
from index.space import Vectors
from serve.manifest import Manifest
from serve.release import Release
from serve.retrieve.query import Encoders
from serve.settings import Settings
from serve.view import Rows, View, same_content

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


def image_source(settings: Settings) -> ImageSource:
    """Where images are read from: the image root, or else the folder of the catalogue's feed."""
    root = settings.image_root or Path(read_report(Catalogue.current(settings.store)).folder)
    return ImageSource(
        root, allow_http=settings.allow_http_images, stores=settings.image_stores, limits=settings.image_limits
    )


@dataclass
class _Row:
    """A row that an item is to have; `vector` is filled in by an encoder where it is not known."""

    item_id: str
    space: str
    label: int
    content: str  # a text, or the reference of an image
    vector: Vectors | None = None
    key: bytes = UNKNOWN_KEY


class Encoding:
    """Gives changed items their vectors: those that the view has already, and new ones from the encoders.

    An image known under the same reference keeps its vector; one that changed under its name is seen by the next
    build.
    """

    def __init__(self, view: View, encoders: Encoders, source: ImageSource) -> None:
        self._view, self._source = view, source
        manifest = view.release.manifest
        self._encoders = {name: encoders.of(manifest, name) for name in manifest.spaces}
        self.warnings: dict[str, list[str]] = {}  # by item id: images that cannot be used, texts that are cut

    def rows(self, items: Sequence[Item]) -> list[dict[str, SpaceRows] | None]:
        """The rows of each item in each space of the release, or None where nothing that encoders read changed."""
        wanted = [self._wanted(item) for item in items]
        new = [row for rows in wanted if rows for row in rows if row.vector is None]
        if isinstance(texts := self._encoders.get("text"), TextEncoder):
            self._encode_texts(texts, [row for row in new if row.space == "text"])
        if isinstance(images := self._encoders.get("image"), ImageEncoder):
            self._encode_images(images, [row for row in new if row.space == "image"])
        return [None if rows is None else self._by_space(rows) for rows in wanted]

    def _wanted(self, item: Item) -> list[_Row] | None:
        number = self._view.number(item.item_id)
        old = None if number is None else self._view.item(number)
        if old is not None and same_content(old, item):
            return None
        rows: list[_Row] = []
        for space in self._encoders:
            known: dict[str, Vectors] = {}
            if old is not None and number is not None:
                by_label = dict(zip(*self._view.spaces[space].rows_of(number), strict=True))
                known = {content: by_label[label] for label, content in _contents(old, space) if label in by_label}
            for label, content in _contents(item, space):
                rows.append(_Row(item.item_id, space, label, content, vector=known.get(content)))
        return rows

    def _encode_texts(self, encoder: TextEncoder, rows: Sequence[_Row]) -> None:
        if not rows:
            return
        found = encoder.encode_texts([row.content for row in rows])
        _fill(rows, found.vectors)
        for row in rows:
            row.key = content_key(row.content)
            if found.truncated and encoder.encode_texts([row.content]).truncated:  # rarely, so once more is no matter
                self._tell(row.item_id, "text_truncated")

    def _tell(self, item_id: str, warning: str) -> None:
        told = self.warnings.setdefault(item_id, [])
        if warning not in told:
            told.append(warning)

    def _encode_images(self, encoder: ImageEncoder, rows: Sequence[_Row]) -> None:
        for start in range(0, len(rows), encoder.batch):
            batch, pixels = [], []
            for row in rows[start : start + encoder.batch]:
                try:
                    row.key, data = self._source.load(row.content, lambda key: False)
                    image = decode_image(data or b"", self._source.limits, shrink_to=encoder.shrink_to)
                except ImageRefused as refused:
                    self._tell(row.item_id, f"image: refused {row.content!r}: {refused.message}")
                else:
                    batch.append(row)
                    pixels.append(encoder.prepare(image))
            if batch:
                _fill(batch, encoder.encode_images(pixels))

    def _by_space(self, rows: Sequence[_Row]) -> dict[str, SpaceRows]:
        found = {}
        for name, entry in self._view.release.manifest.spaces.items():
            of = [row for row in rows if row.space == name and row.vector is not None]
            vectors = np.empty((len(of), entry.dim), np.float32)
            for place, row in enumerate(of):
                vectors[place] = row.vector
            found[name] = SpaceRows(entry.fingerprint, [row.label for row in of], [row.key for row in of], vectors)
        return found


def _contents(item: Item, space: str) -> Iterable[tuple[int, str]]:
    return compose_texts(item) if space == "text" else enumerate(item.images)


def _fill(rows: Sequence[_Row], vectors: Vectors) -> None:
    for row, vector in zip(rows, vectors, strict=True):
        row.vector = vector


def rows_for(release: Release, change: LiveChange) -> dict[str, Rows] | None:
    """A change's rows in the spaces of a release, or None where they were made by other encoders or are not there."""
    if change.rows is None or change.rows.keys() != release.manifest.spaces.keys():
        return None
    for name, entry in release.manifest.spaces.items():
        if change.rows[name].fingerprint != entry.fingerprint:
            return None
    return {name: Rows(rows.labels, rows.vectors) for name, rows in change.rows.items()}


def fold_journal(store: Path) -> IngestReport | None:
    """Fold what came since into the catalogue and its vectors into the vector store; None where nothing came.

    What comes while this goes on begins a new segment of the journal, and is folded in by the next build.
    """
    journal = Journal(journal_folder(store), read_report(Catalogue.current(store)).journal)
    edits: list[Edit] = []
    encoded: dict[tuple[str, str, int], dict[bytes, Vectors]] = {}

    def take() -> None:
        for record in journal.read():
            change = LiveChange.from_record(record)
            edits.append(change.edit(record))
            for name, rows in (change.rows or {}).items():
                of = encoded.setdefault((name, rows.fingerprint, rows.vectors.shape[1]), {})
                of.update(zip(rows.keys, rows.vectors, strict=True))

    take()  # nearly all, without keeping writers out
    with journal.writing() as writer:
        take()
        writer.rotate()
    if not edits:
        return None
    for (name, fingerprint, dim), vectors in encoded.items():
        _keep_vectors(VectorStore(store, name, fingerprint, dim), vectors)
    return fold(store, edits, journal.position)


def edits_beyond(store: Path, feed: Path, released: int) -> tuple[list[Edit], int]:
    """What a feed must not undo, and the record of the journal up to which that is all there is.

    These are the edits made after the feed was written, and those that are not `released` yet, whatever the feed says.
    Without a catalogue that can be read they are taken from the journal, as far back as it goes.
    """
    folder = journal_folder(store)
    try:
        catalogue = Catalogue.current(store)
        edits, position = current_edits(catalogue), read_report(catalogue).journal
    except EmbedError:  # which a good feed repairs
        starts = segment_starts(folder)
        journal = Journal(folder, starts[0] - 1 if starts else released)
        edits = [LiveChange.from_record(record).edit(record) for record in journal.read()]
        position = journal.position
    written = feed.stat().st_mtime if feed.exists() else 0.0  # the ingest will say that there is none
    return [edit for edit in edits if edit.sequence > released or edit.at > written], position


def prune_journal(store: Path, manifests: Sequence[Manifest]) -> None:
    """Delete the segments that no release on disk needs to be brought up to date."""
    prune(journal_folder(store), min(manifest.journal for manifest in manifests))


def _keep_vectors(store: VectorStore, vectors: dict[bytes, Vectors]) -> None:
    """What was encoded for a live change is not encoded again."""
    vectors.pop(UNKNOWN_KEY, None)
    keys = list(vectors)
    new = [key for key, known in zip(keys, store.known(as_keys(keys)), strict=True) if not known]
    if new:
        store.append(new, np.stack([vectors[key] for key in new]))
