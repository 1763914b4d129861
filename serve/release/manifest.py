"""The manifest of a release: what it is made of, how it measured, and the checksum of every file."""

import hashlib
from datetime import datetime
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from embed.alignment.alignment import AlignmentMetadata
from embed.durable import sha256
from index.faiss_index import Effort
from index.tuning import Point
from serve.core.errors import StoreUnavailable
from serve.recommend.retrieval.retrievers import TOWER
from serve.release.behaviour_model import BehaviourSummary
from serve.search.fusion_weights import FusionWeights
from serve.search.vocabulary import VocabularyMetadata

FORMAT = 9


class Check(BaseModel):
    """How a release measures beside its parent: in what, both figures, and by how many cases.

    `low` and `high` are the 95 % interval of the difference, where both were measured on the same cases. `worse` by
    more than the settings allow is not published unless it is forced.
    """

    name: str
    parent: float
    release: float
    low: float | None = None
    high: float | None = None
    cases: int = 0
    worse: bool


class Quality(BaseModel):
    """Of the first ten items for the shoppers who were there last: the share of the catalogue in any of them."""

    users: int = Field(validation_alias=AliasChoices("users", "shoppers"))  # the second, by 0.1
    coverage10: float


class FileSum(BaseModel):
    sha256: str
    bytes: int


class SpaceEntry(BaseModel):
    """What a space is made by and how its index measured; `failed` images have no row, `truncated` texts were cut.

    What the index figures mean is said in index.snapshot.IndexReport.
    """

    encoder: str
    fingerprint: str
    dim: int
    rows: int
    encoded: int
    truncated: int
    failed: int
    rejected: int
    factory: str
    efforts: list[Effort]
    recall10: float
    latency_ms: float
    bytes: int
    bytes_per_vector: float
    recall_target: float
    curve: list[Point]
    note: str
    uri: str
    collection: str


class Manifest(BaseModel):
    """What a release is. `content` is the hash of all that went in: equal content needs no second release.

    `journal` is the last live change that is in it; those after it are laid on top when it is loaded.

    `release` is not in the file: it is the folder's name, which carries the file's hash.
    """

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    release: str = ""
    parent: str | None
    content: str
    created_at: datetime
    catalogue: str
    feed: str
    journal: int
    items: int
    spaces: dict[str, SpaceEntry]
    tower: SpaceEntry | None
    alignment: AlignmentMetadata | None
    words: VocabularyMetadata
    fusion_weights: FusionWeights | None = Field(None, validation_alias=AliasChoices("fusion_weights", "weighed"))
    behaviour: BehaviourSummary
    quality: Quality | None = None
    checks: list[Check] = []
    seconds: dict[str, float]
    versions: dict[str, str]
    files: dict[str, FileSum] = {}

    @property
    def indexes(self) -> dict[str, SpaceEntry]:
        """Every index: of the spaces that encoders make, and of the tower space where there are towers."""
        return self.spaces | ({TOWER: self.tower} if self.tower else {})


class _Format(BaseModel):
    """What of a manifest is read first: the rest depends on it."""

    format: int


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a release; raises Broken where it is missing, damaged or of another release."""
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
        found = _Format.model_validate_json(data).format
        if found != FORMAT:
            raise StoreUnavailable(f"{path} has format {found}, this version reads {FORMAT}: build again", path.name)
        manifest = Manifest.model_validate_json(data)
    except OSError as error:
        raise StoreUnavailable(
            f"{folder} is no release: {path.name} cannot be read ({error.strerror})", path.name
        ) from error
    except ValidationError as error:
        raise StoreUnavailable(f"{path} is damaged: {error.errors()[0]['msg']}", path.name) from error
    name = name_of(manifest.created_at, data)
    if folder.name != name:
        raise StoreUnavailable(
            f"{path} is damaged or of another release: it belongs to {name}, not {folder.name}", path.name
        )
    manifest.release = name
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise Broken, naming the file, unless every file of the release is there and has its checksum."""
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise StoreUnavailable(f"release {manifest.release} lacks its file {name}", name)
        size = path.stat().st_size
        if size != expected.bytes:
            raise StoreUnavailable(
                f"file {name} of release {manifest.release} has {size} bytes, published were {expected.bytes}", name
            )
        digest = sha256(path)
        if digest != expected.sha256:
            raise StoreUnavailable(
                f"file {name} of release {manifest.release} has SHA-256 {digest[:16]}…, published was "
                f"{expected.sha256[:16]}…: it is damaged or of another build",
                name,
            )


def name_of(made: datetime, manifest: bytes) -> str:
    """A name that sorts by time and gives away a manifest that was altered or is another's."""
    return f"{made:%Y%m%dT%H%M%S}{made.microsecond // 1000:03}-{hashlib.sha256(manifest).hexdigest()[:8]}"
