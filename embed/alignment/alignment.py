"""The alignment: linear adapters that words and photos pass through on their way into the image space, as queries.

The vectors of the items stay as they are, so that learning it anew touches no index and no model that learned from
those vectors. Where the measure on held-out products said no (embed.alignment.learning), there is no adapter of that
kind, and the query enters as its encoder made it.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from embed.encoders.encoder import Vectors, unit_rows
from embed.errors import Damaged, Missing

FORMAT = 1
_WORDS = ("words_mean", "words_in", "words_out")
_PHOTOS = ("photos_mean", "photos_matrix")
FACTS_FILE, TENSORS_FILE = "alignment.json", "alignment.safetensors"


class Measured(BaseModel):
    """Without and with an adapter, on products that it did not learn from, all images ranked.

    Recall in the first 10 of the item's own image for its words; in the first place of another photo of the product
    for a photo. `better` is whether the reciprocal rank of the right one is surely greater with it (one-sided 95 %).
    """

    queries: int
    before: float
    after: float
    better: bool


class AlignmentMetadata(BaseModel):
    """What it is for and was learned from: fingerprints of the image space and of what encodes words, and `items` of
    the catalogue, `pairs` of image and words, `searches` of shoppers among these, and `photographed` products with
    several photos."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    image: str
    words: str
    joint: bool
    items: int
    pairs: int
    photographed: int
    searches: int = 0
    epochs: int = 0
    shrinkage: float = 0.0
    of_words: Measured | None = None
    of_photos: Measured | None = None


class Alignment:
    """Adapters with their facts. Tensors by name, float32:

    words_mean [d_words], words_in [r, d_words], words_out [r, d]; photos_mean [d], photos_matrix [d, d]. Those of an
    adapter that does not help are not there.
    """

    def __init__(self, facts: AlignmentMetadata, tensors: dict[str, NDArray[np.float32]]) -> None:
        self.facts = facts
        self._tensors = tensors
        self.takes_words = "words_in" in tensors
        self.adapts_photos = "photos_matrix" in tensors

    @property
    def fingerprint(self) -> str:
        """Hash of tensors and facts."""
        digest = hashlib.blake2b(digest_size=8)
        for data in self.files().values():
            digest.update(hashlib.blake2b(data).digest())
        return digest.hexdigest()

    def words(self, vectors: Vectors) -> Vectors:
        """Vectors [n, d_words] of texts as queries [n, d] of the image space, unit rows."""
        mean, inward, outward = (self._tensors[name] for name in _WORDS)
        moved = (vectors - mean) @ inward.T @ outward
        return unit_rows(vectors + moved if self.facts.joint else moved)

    def photos(self, vectors: Vectors) -> Vectors:
        """Vectors [n, d] of photos as queries [n, d], unit rows."""
        if not self.adapts_photos:
            return vectors
        mean, matrix = (self._tensors[name] for name in _PHOTOS)
        return unit_rows((vectors - mean) @ matrix)

    def files(self) -> dict[str, bytes]:
        """What is written of it, by file name."""
        return {TENSORS_FILE: save(self._tensors), FACTS_FILE: self.facts.model_dump_json(indent=2).encode()}

    @classmethod
    def open(cls, folder: Path) -> "Alignment":
        """Read a folder of `files`; raises Missing or Damaged."""
        try:
            facts = AlignmentMetadata.model_validate_json((folder / FACTS_FILE).read_bytes())
            tensors = load((folder / TENSORS_FILE).read_bytes())
        except OSError as error:
            raise Missing(f"{folder} holds no alignment ({error.strerror}): run vetrina align", folder.name) from error
        except (SafetensorError, ValidationError) as error:
            raise Damaged(
                f"the alignment in {folder} cannot be used ({error}): run vetrina align", folder.name
            ) from error
        if facts.format != FORMAT:
            raise Damaged(
                f"the alignment in {folder} has format {facts.format}, this version reads {FORMAT}: run vetrina align",
                folder.name,
            )
        return cls(facts, tensors)
