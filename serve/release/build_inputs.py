"""Keeps what a build was given: the feed, its mapping and format, and the folder of its photos.

    STORE/build_inputs.json

Later jobs and the service use it until a build is given something else.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from embed.catalogue import Catalogue, read_report
from embed.durable import write_file
from serve.core.errors import StoreUnavailable
from serve.core.settings import Settings

FILE = "build_inputs.json"


class BuildInputs(BaseModel):
    """The inputs of a store's builds; None where none was given. Paths are absolute."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    feed: Path | None = None
    mapping: Path | None = None
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


def feed_mapping(settings: Settings) -> Path | None:
    """Return the mapping file of the feed: that of the settings, or else the one given to the last build."""
    return settings.mapping or read_build_inputs(settings.store).mapping


def image_folder(settings: Settings) -> Path:
    """Return the folder of local photos: that of the settings, or of the last build, or else the feed's own folder."""
    folder = settings.image_root or read_build_inputs(settings.store).images
    return folder or Path(read_report(Catalogue.current(settings.store)).folder)
