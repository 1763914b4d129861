"""The manifest of a release: its inputs, its measured quality, and the checksum of every file."""

import hashlib
from datetime import datetime
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from embed.alignment.alignment import AlignmentMetadata
from embed.durable import sha256
from embed.encoders.encoder_options import EncoderOptions
from index.faiss_index import SearchEffort
from index.tuning import TuningPoint
from serve.core.errors import StoreUnavailable
from serve.recommend.retrieval.retriever import TOWER
from serve.release.behaviour_model import BehaviourMetadata
from serve.search.fusion_weights import FusionWeights
from serve.search.vocabulary import VocabularyMetadata

FORMAT = 9


class Check(BaseModel):
    """A figure of a release compared with that of its parent, over a number of cases.

    `low` and `high` are the 95 % interval of the difference, if both were measured on the same cases. `worse` means by
    more than the settings allow: such a release is published only if forced. `space` is set where encoders of a space
    were compared (see serve.evaluation.encoder_comparison).
    """

    name: str
    parent: float
    release: float
    low: float | None = None
    high: float | None = None
    cases: int = 0
    worse: bool
    space: str | None = None


class Quality(BaseModel):
    """The share of the catalogue among the first ten items of the users who were active last."""

    users: int = Field(validation_alias=AliasChoices("users", "shoppers"))  # the second, by 0.1
    coverage10: float


class FileSum(BaseModel):
    """The checksum and size of a file."""

    sha256: str
    bytes: int


class SpaceEntry(BaseModel):
    """The encoder of a space, and the measurements of its index (see index.tuning).

    `failed` images have no row; `truncated` texts were cut. `options` is None in a release of before version 0.3, whose
    encoders are loaded as they were then.
    """

    encoder: str
    options: EncoderOptions | None = None
    fingerprint: str
    dim: int
    rows: int
    encoded: int
    truncated: int
    failed: int
    rejected: int
    factory: str
    efforts: list[SearchEffort]
    recall10: float
    latency_ms: float
    bytes: int
    bytes_per_vector: float
    recall_target: float
    curve: list[TuningPoint]
    note: str
    uri: str
    collection: str


class Manifest(BaseModel):
    """What a release is.

    `content` is the hash of all inputs: equal content needs no second release. `journal` is the last live change in it;
    later ones are applied when it is loaded. `release` is not in the file: it is the folder's name, which has the
    file's hash.
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
    behaviour: BehaviourMetadata
    quality: Quality | None = None
    checks: list[Check] = []
    seconds: dict[str, float]
    versions: dict[str, str]
    files: dict[str, FileSum] = {}

    @property
    def indexes(self) -> dict[str, SpaceEntry]:
        """All indexes: those of encoder spaces, and that of the tower space if there are towers."""
        return self.spaces | ({TOWER: self.tower} if self.tower else {})


class _Format(BaseModel):
    """What is read first of a manifest: the rest depends on it."""

    format: int


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a release; raises StoreUnavailable if it is missing, damaged or of another release."""
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
        found = _Format.model_validate_json(data).format
        if found != FORMAT:
            raise StoreUnavailable(f"{path} has format {found}, this version reads {FORMAT}: build again", path.name)
        manifest = Manifest.model_validate_json(data)
    except OSError as error:
        raise StoreUnavailable(
            f"{folder} is not a release: {path.name} cannot be read ({error.strerror})", path.name
        ) from error
    except ValidationError as error:
        raise StoreUnavailable(f"{path} is damaged: {error.errors()[0]['msg']}", path.name) from error
    name = name_of(manifest.created_at, data)
    if folder.name != name:
        raise StoreUnavailable(
            f"{path} is damaged or of another release: its checksum belongs to {name}, not {folder.name}", path.name
        )
    manifest.release = name
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the release exists and has its checksum; raises StoreUnavailable that names the file."""
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise StoreUnavailable(
                f"release {manifest.release} has lost its file {name}: restore it from a backup, or build again", name
            )
        size = path.stat().st_size
        if size != expected.bytes:
            raise StoreUnavailable(
                f"file {name} of release {manifest.release} has {size} bytes instead of {expected.bytes}",
                name,
            )
        digest = sha256(path)
        if digest != expected.sha256:
            raise StoreUnavailable(
                f"file {name} of release {manifest.release} has SHA-256 {digest[:16]}… instead of "
                f"{expected.sha256[:16]}…: it is damaged or of another build",
                name,
            )


def name_of(made: datetime, manifest: bytes) -> str:
    """Return a name that sorts by time and reveals a manifest that was changed or exchanged."""
    return f"{made:%Y%m%dT%H%M%S}{made.microsecond // 1000:03}-{hashlib.sha256(manifest).hexdigest()[:8]}"
