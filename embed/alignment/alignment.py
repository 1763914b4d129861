"""The alignment: linear adapters that map query texts and query photos into the image space.

Item vectors are not changed, so training a new alignment affects neither indexes nor models that were trained on them.
An adapter that does not help on held-out products (embed.alignment.adapter_training) is omitted; queries of its kind
are then used as their encoder made them.
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
_TEXT_TENSORS = ("words_mean", "words_in", "words_out")
_PHOTO_TENSORS = ("photos_mean", "photos_matrix")
METADATA_FILE, TENSORS_FILE = "alignment.json", "alignment.safetensors"


class AdapterEvaluation(BaseModel):
    """Quality without and with an adapter, on products that it was not trained on, ranking all images.

    For texts: recall@10 of the item's own image. For photos: recall@1 of another photo of the product. `better` says
    whether the reciprocal rank of the right image is significantly higher with the adapter (one-sided, 95 %).
    """

    queries: int
    before: float
    after: float
    better: bool


class AlignmentMetadata(BaseModel):
    """What an alignment is for, what it was trained on, and how good it is.

    `image` and `words` are the fingerprints of the image space and of the text encoder. `items` counts the items of the
    catalogue, `pairs` the pairs of image and text, `searches` the users' queries among these, and `photographed` the
    products with several photos. `of_words` and `of_photos` evaluate the adapters.
    """

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
    of_words: AdapterEvaluation | None = None
    of_photos: AdapterEvaluation | None = None


class Alignment:
    """Adapters with their metadata. Tensors by name, float32:

    words_mean [d_words], words_in [r, d_words], words_out [r, d]; photos_mean [d], photos_matrix [d, d]. The tensors of
    an adapter that does not help are absent.
    """

    def __init__(self, facts: AlignmentMetadata, tensors: dict[str, NDArray[np.float32]]) -> None:
        self.facts = facts
        self._tensors = tensors
        self.has_text_adapter = "words_in" in tensors
        self.has_photo_adapter = "photos_matrix" in tensors

    @property
    def fingerprint(self) -> str:
        """Hash of tensors and metadata."""
        digest = hashlib.blake2b(digest_size=8)
        for data in self.files().values():
            digest.update(hashlib.blake2b(data).digest())
        return digest.hexdigest()

    def adapt_texts(self, vectors: Vectors) -> Vectors:
        """Map vectors [n, d_words] of texts to queries [n, d] of the image space, unit rows."""
        mean, inward, outward = (self._tensors[name] for name in _TEXT_TENSORS)
        moved = (vectors - mean) @ inward.T @ outward
        return unit_rows(vectors + moved if self.facts.joint else moved)

    def adapt_photos(self, vectors: Vectors) -> Vectors:
        """Map vectors [n, d] of photos to queries [n, d], unit rows."""
        if not self.has_photo_adapter:
            return vectors
        mean, matrix = (self._tensors[name] for name in _PHOTO_TENSORS)
        return unit_rows((vectors - mean) @ matrix)

    def files(self) -> dict[str, bytes]:
        """Return the contents of the alignment's files, by file name."""
        return {TENSORS_FILE: save(self._tensors), METADATA_FILE: self.facts.model_dump_json(indent=2).encode()}

    @classmethod
    def open(cls, folder: Path) -> "Alignment":
        """Read an alignment from a folder; raises Missing or Damaged."""
        try:
            facts = AlignmentMetadata.model_validate_json((folder / METADATA_FILE).read_bytes())
            tensors = load((folder / TENSORS_FILE).read_bytes())
        except OSError as error:
            raise Missing(f"no alignment in {folder} ({error.strerror}): run vetrina align", folder.name) from error
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
