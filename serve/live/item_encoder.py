"""Encodes the items of a live change into the spaces of the active release."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from embed.catalogue import Item
from embed.encoders import ImageEncoder, TextEncoder
from embed.images import ImageRefused, ImageSource, decode_pixels
from embed.text_composition import compose_texts
from embed.vector_store import content_key
from index.space import Vectors
from serve.engine.query_encoders import Encoders
from serve.live.change_record import UNKNOWN_KEY, EncodedRows
from serve.release.overlay import same_content
from serve.release.snapshot import Snapshot


@dataclass
class _Row:
    """A row of an item in a space; without a `vector`, the content is still to be encoded."""

    item_id: str
    space: str
    label: int
    content: str  # a text, or the reference of an image
    vector: Vectors | None = None
    key: bytes = UNKNOWN_KEY


class ItemEncoder:
    """Gives changed items their vectors: those that the snapshot has already, and new ones from the encoders.

    An image with an unchanged reference keeps its vector; a file that changed under its name is read by the next build.
    """

    def __init__(self, snapshot: Snapshot, encoders: Encoders, source: ImageSource) -> None:
        self._snapshot, self._source = snapshot, source
        manifest = snapshot.release.manifest
        self._encoders = {name: encoders.encoder(manifest, name) for name in manifest.spaces}
        self.warnings: dict[str, list[str]] = {}  # by item id: unusable images and truncated texts

    def encode(self, items: Sequence[Item]) -> list[dict[str, EncodedRows] | None]:
        """Return the rows of each item by space, or None where no content has changed that encoders read."""
        rows_by_item = [self._rows(item) for item in items]
        new = [row for rows in rows_by_item if rows for row in rows if row.vector is None]
        if isinstance(text_encoder := self._encoders.get("text"), TextEncoder):
            self._encode_texts(text_encoder, [row for row in new if row.space == "text"])
        if isinstance(image_encoder := self._encoders.get("image"), ImageEncoder):
            self._encode_images(image_encoder, [row for row in new if row.space == "image"])
        return [None if rows is None else self._by_space(rows) for rows in rows_by_item]

    def _rows(self, item: Item) -> list[_Row] | None:
        """Return the rows of an item, with the vectors that the snapshot has; None for unchanged content."""
        item_index = self._snapshot.item_index(item.item_id)
        before = None if item_index is None else self._snapshot.item(item_index)
        if before is not None and same_content(before, item):
            return None
        rows: list[_Row] = []
        for space in self._encoders:
            known: dict[str, Vectors] = {}
            if before is not None and item_index is not None:
                by_label = dict(zip(*self._snapshot.spaces[space].item_rows(item_index), strict=True))
                known = {content: by_label[label] for label, content in _contents(before, space) if label in by_label}
            for label, content in _contents(item, space):
                rows.append(_Row(item.item_id, space, label, content, vector=known.get(content)))
        return rows

    def _encode_texts(self, encoder: TextEncoder, rows: Sequence[_Row]) -> None:
        if not rows:
            return
        encoded = encoder.encode_texts([row.content for row in rows])
        _set_vectors(rows, encoded.vectors)
        for row in rows:
            row.key = content_key(row.content)
            if encoded.truncated and encoder.encode_texts([row.content]).truncated:  # rare, so encoding again is cheap
                self._warn(row.item_id, "text_truncated")

    def _encode_images(self, encoder: ImageEncoder, rows: Sequence[_Row]) -> None:
        for start in range(0, len(rows), encoder.batch):
            batch, pixels = [], []
            for row in rows[start : start + encoder.batch]:
                try:
                    row.key, data = self._source.load(row.content, lambda key: False)
                    image = decode_pixels(data or b"", self._source.limits, shrink_to=encoder.shrink_to)
                except ImageRefused as refused:
                    self._warn(row.item_id, f"image: refused {row.content!r}: {refused.message}")
                else:
                    batch.append(row)
                    pixels.append(encoder.prepare(image))
            if batch:
                _set_vectors(batch, encoder.encode_images(pixels))

    def _warn(self, item_id: str, warning: str) -> None:
        warnings = self.warnings.setdefault(item_id, [])
        if warning not in warnings:
            warnings.append(warning)

    def _by_space(self, rows: Sequence[_Row]) -> dict[str, EncodedRows]:
        by_space = {}
        for name, entry in self._snapshot.release.manifest.spaces.items():
            encoded = [row for row in rows if row.space == name and row.vector is not None]
            vectors = np.empty((len(encoded), entry.dim), np.float32)
            for position, row in enumerate(encoded):
                vectors[position] = row.vector
            labels, keys = [row.label for row in encoded], [row.key for row in encoded]
            by_space[name] = EncodedRows(entry.fingerprint, labels, keys, vectors)
        return by_space


def _contents(item: Item, space: str) -> Iterable[tuple[int, str]]:
    return compose_texts(item) if space == "text" else enumerate(item.images)


def _set_vectors(rows: Sequence[_Row], vectors: Vectors) -> None:
    for row, vector in zip(rows, vectors, strict=True):
        row.vector = vector
