"""Keeps what a build was given: the feed, its mapping and format, and the folder of its photos.

    STORE/build_inputs.json
    STORE/mapping.toml      a copy of the mapping file
    STORE/category_tree.*   a copy of the category tree that the mapping names

Later jobs and the service use it until a build is given something else. They use the copies, so that the store also
works where the originals do not exist, as on another machine.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from embed.catalogue import Catalogue, FeedMapping, read_report
from embed.durable import write_file
from embed.errors import Missing
from embed.records import read_toml
from serve.core.errors import StoreUnavailable
from serve.core.settings import Settings

FILE = "build_inputs.json"
MAPPING = Path("mapping.toml")


class BuildInputs(BaseModel):
    """The inputs of a store's builds; None where none was given.

    Paths of feed and images are absolute, those of the copied mapping and category tree relative to the store.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    feed: Path | None = None
    mapping: Path | None = None
    category_tree: Path | None = None
    format: str | None = None
    images: Path | None = None


def read_build_inputs(store: Path) -> BuildInputs:
    """Read the inputs of a store's builds; raises StoreUnavailable where the file is damaged."""
    file = store / FILE
    try:
        return BuildInputs.model_validate_json(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return BuildInputs()
    except (OSError, ValidationError) as error:
        raise StoreUnavailable(
            f"{file} cannot be read: delete it, then run vetrina build FEED with the options that the feed needs",
            "store",
        ) from error


def write_build_inputs(store: Path, inputs: BuildInputs) -> None:
    """Write the inputs of a store's builds in one atomic step, unless the store already has exactly these."""
    if inputs != read_build_inputs(store):
        write_file(store / FILE, inputs.model_dump_json(indent=1).encode())


def load_mapping(settings: Settings) -> FeedMapping | None:
    """Load the mapping of the feed: that of the settings, or else the store's copy of the one given to a build.

    Raises StoreUnavailable where the copy cannot be read; and Missing or BadInput for the file of the settings.
    """
    if settings.mapping is not None:
        return FeedMapping.load(settings.mapping)
    inputs = read_build_inputs(settings.store)
    if inputs.mapping is None:
        return None
    try:
        return FeedMapping.load(
            settings.store / inputs.mapping, inputs.category_tree and settings.store / inputs.category_tree
        )
    except (Missing, OSError) as error:
        raise StoreUnavailable(
            f"cannot read the mapping of the last build ({error}): run vetrina build FEED --mapping FILE", "mapping"
        ) from error


def copy_mapping(store: Path, mapping: Path, inputs: BuildInputs) -> BuildInputs:
    """Copy a valid mapping file and its category tree into a store; return the inputs with the copies."""
    table, tree = read_toml(mapping).get("category_tree"), None
    if table is not None:
        original = mapping.parent / table["file"]
        tree = Path("category_tree" + "".join(original.suffixes[-2:]))  # the suffix tells TSV from CSV
        write_file(store / tree, original.read_bytes())
    write_file(store / MAPPING, mapping.read_bytes())
    return inputs.model_copy(update={"mapping": MAPPING, "category_tree": tree})


def image_folder(settings: Settings) -> Path:
    """Return the folder of local photos: that of the settings, or of the last build, or else the feed's own folder."""
    folder = settings.image_root or read_build_inputs(settings.store).images
    return folder or Path(read_report(Catalogue.current(settings.store)).folder)
