"""Encodes the items of a live change into the spaces of the active release."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from embed.catalogue import Item
from embed.compose import compose_texts
from embed.encoders import ImageEncoder, TextEncoder
from embed.images import ImageRefused, ImageSource, decode_image
from embed.vector_store import content_key
from index.space import Vectors
from serve.engine.query_encoders import Encoders
from serve.live.change_record import UNKNOWN_KEY, SpaceRows
from serve.release.overlay import same_content
from serve.release.snapshot import Snapshot


@dataclass
class _Row:
    """A row that an item is to have; `vector` is filled in by an encoder where it is not known."""

    item_id: str
    space: str
    label: int
    content: str  # a text, or the reference of an image
    vector: Vectors | None = None
    key: bytes = UNKNOWN_KEY


class ItemEncoder:
    """Gives changed items their vectors: those that the view has already, and new ones from the encoders.

    An image known under the same reference keeps its vector; one that changed under its name is seen by the next
    build.
    """

    def __init__(self, view: Snapshot, encoders: Encoders, source: ImageSource) -> None:
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
        number = self._view.item_index(item.item_id)
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
