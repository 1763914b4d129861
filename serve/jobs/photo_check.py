"""Refuses a build of which most photos cannot be read, and says where they may lie."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from embed.catalogue import Catalogue, read_report
from embed.encode_job import ImageFailure, SpaceVectors
from embed.images.object_stores import SCHEMES
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.release.build_inputs import image_folder

MAX_SAMPLED = 10  # photos that could not be read, which a likely folder is searched for
MAX_DEPTH = 3  # levels of folders below the feed's folder and its parent that are searched
MAX_FOLDERS = 2000  # that are searched at most


def required_setting(reference: str, settings: Settings) -> str:
    """Return the setting that a photo needs and that is off, as it is written in vetrina.toml; empty if none is."""
    scheme = reference.partition(":")[0].lower()
    if scheme in ("http", "https") and not settings.allow_http_images:
        return "allow_http_images = true"
    if scheme in SCHEMES and scheme not in settings.image_stores:
        return f'image_stores = ["{scheme}"]'
    return ""


def count_switched_off(failures: Sequence[ImageFailure], settings: Settings) -> dict[str, int]:
    """Count the photos that the settings do not allow to be read, by the setting that would."""
    needed = (required_setting(failure.image, settings) for failure in failures)
    return dict(sorted(Counter(filter(None, needed)).items()))


def read_failures(failures: Sequence[ImageFailure], settings: Settings) -> list[ImageFailure]:
    """Return the failures of photos that the settings allow to be read."""
    return [failure for failure in failures if not required_setting(failure.image, settings)]


def check_photos(settings: Settings, catalogue: Catalogue, spaces: Sequence[SpaceVectors]) -> None:
    """Raise BadRequest where more than half of the photos that the settings allow to be read could not be read."""
    images = next((space for space in spaces if space.space == "image"), None)
    if images is None:
        return
    failures = read_failures(images.failures, settings)
    tried = len(images.owners) + len(failures)
    if 2 * len(failures) <= tried:
        return
    first = failures[0]
    likely = likely_folder(settings, Path(read_report(catalogue).folder), failures)
    hint = (
        f"photos of these names are in {likely}: build again with --images {likely}"
        if likely
        else (f"they were looked for in {image_folder(settings)}: build again with --images FOLDER")
    )
    raise BadRequest(
        f"{len(failures):,} of {tried:,} photos could not be read, so the build is not published. The first, of item "
        f"{first.item_id}: {first.reason}. {hint[0].upper()}{hint[1:]}, or publish without these photos: --force. "
        f"All failures: {images.store.folder / 'failures.jsonl'}",
        "images",
    )


def likely_folder(settings: Settings, feed_folder: Path, failures: Sequence[ImageFailure]) -> Path | None:
    """Return the folder near the feed that holds most of the first photos that were not found; None if none does."""
    references = [failure.image for failure in failures if failure.code in ("not_found", "outside_root")][:MAX_SAMPLED]
    names = [Path(reference) for reference in references if "\0" not in reference]
    absolute = [name for name in names if name.is_absolute() and os.path.isfile(name)]
    if absolute:
        return Path(os.path.commonpath([name.parent for name in absolute]))
    relative = [name for name in names if not name.is_absolute() and ".." not in name.parts]
    best, most = None, 0
    for folder in _folders_near(feed_folder, image_folder(settings)):
        held = sum(os.path.isfile(folder / name) for name in relative)
        if held > most:
            best, most = folder, held
    return best


def _folders_near(*roots: Path) -> Iterator[Path]:
    """Yield the roots and their parents with what is below them, nearest first, each once."""
    level = [*roots, *(root.parent for root in roots)]
    visited: set[Path] = set()
    for _ in range(MAX_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            if folder in visited or not os.path.isdir(folder):
                continue
            if len(visited) == MAX_FOLDERS:
                return
            visited.add(folder)
            yield folder
            below += _subfolders(folder)
        level = below


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                Path(entry.path)
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:  # a folder that may not be read
        return []
