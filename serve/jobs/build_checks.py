"""What a build checks before it publishes: whether its content is new, whole, and compared with the active release."""

import hashlib
from pathlib import Path

from embed.alignment.alignment import Alignment
from embed.catalogue import Catalogue
from embed.encode_job import SpaceVectors
from serve.core.errors import BadRequest, StoreUnavailable
from serve.core.settings import Settings
from serve.evaluation.encoder_comparison import changed_spaces
from serve.release.behaviour_model import BehaviourModel
from serve.release.manifest import Manifest, check_files, read_manifest
from serve.release.repository import current_name, list_manifests, releases_folder


def unpublished_release(store: Path, content: str, active: Manifest | None) -> Manifest | None:
    """Find a release on disk that is newer than the active one, has this content and can be compared with that one.

    Returns None if there is none.
    """
    current = current_name(store) or ""
    same = (each for each in list_manifests(store) if each.release > current and each.content == content)
    comparable = (each for each in same if active is None or are_encoders_compared(each, active))
    return next((each for each in comparable if valid_manifest(store, each.release) is not None), None)


def are_encoders_compared(release: Manifest, active: Manifest) -> bool:
    """Return whether the encoders of a release were compared with those of the active one, or are the same."""
    return release.parent == active.release or not changed_spaces(release, active)


def content_hash(
    settings: Settings,
    catalogue: Catalogue,
    spaces: list[SpaceVectors],
    alignment: Alignment | None,
    behaviour: BehaviourModel,
) -> str:
    """Hash what a release is made of: the same content needs no new release."""
    digest = hashlib.blake2b(catalogue.version.encode(), digest_size=16)
    digest.update(settings.language.encode())
    # The index settings count too: the same vectors are indexed again where these have changed.
    engine = (settings.milvus_uri, settings.milvus_prefix) if settings.index_engine == "milvus" else ()
    digest.update(repr((settings.recall_target, settings.index_memory_mb, *engine)).encode())
    digest.update(alignment.fingerprint.encode() if alignment is not None else b"")
    digest.update(behaviour.metadata.model_dump_json(exclude={"counted_at"}).encode())
    for space in spaces:
        digest.update(f"{space.space}:{space.fingerprint}:".encode())
        digest.update(space.owners.tobytes())
        digest.update(space.keys.tobytes())
    return digest.hexdigest()


def valid_manifest(store: Path, name: str) -> Manifest | None:
    """Read a release's manifest and check its files; None where the release is damaged."""
    try:
        manifest = read_manifest(releases_folder(store) / name)
        check_files(releases_folder(store) / name, manifest)
    except StoreUnavailable:
        return None
    return manifest


def check_spaces(settings: Settings, active: Manifest | None, spaces: list[SpaceVectors]) -> None:
    """Raise BadRequest where a space would lose more than half of its rows, as when a folder is not mounted."""
    rows = {space.space: len(space.owners) for space in spaces}
    if not rows:
        raise BadRequest("no photo of the catalogue can be read and no item has a text: nothing to release", "images")
    for name, entry in active.spaces.items() if active else ():
        now = rows.get(name, 0)
        if 2 * now < entry.rows:
            failures = settings.store / "vectors" / name / entry.fingerprint / "failures.jsonl"
            raise BadRequest(
                f"space {name} would lose more than half of its rows: {now:,} of {entry.rows:,} are left; "
                f"not published. See {failures}, or publish with --force",
                name,
            )
