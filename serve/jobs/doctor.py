"""Checks what this machine can do, and what is wrong with a store."""

import os
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from embed.catalogue import Catalogue, check_items, read_report
from embed.encoders import choose_device
from embed.encoders.cpu_model import cache_folder
from embed.encoders.encoder_registry import ENCODERS
from embed.vector_store import VectorStore
from index import gpu
from index.journal import Journal, segment_starts
from serve.core.errors import EXPECTED, error_response
from serve.core.settings import Settings
from serve.engine.query_encoders import Encoders
from serve.jobs.photo_check import required_setting
from serve.live.change_record import LiveChange, journal_folder
from serve.release.build_inputs import load_mapping, read_build_inputs
from serve.release.manifest import Manifest, SpaceEntry
from serve.release.release import Release
from serve.release.repository import list_manifests, open_current, release_names, releases_folder
from serve.security.access_mode import is_keyless_by_default, read_access_mode
from serve.security.api_keys import HOW_TO_CHOOSE, list_keys

PACKAGES = (
    "vetrina",
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "sentence-transformers",
    "onnxruntime",
    "openvino",
    "fastapi",
)


@dataclass(frozen=True)
class Finding:
    """The result of a check: `good`, `off` (absent, which is fine) or `wrong`, and what to do about it."""

    subject: str
    state: Literal["good", "off", "wrong"]
    detail: str


def examine(settings: Settings) -> list[Finding]:
    """Check the machine, then the store."""
    return [*_machine(settings), *_encoders(settings), *_store(settings)]


def _machine(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield Finding("machine", "good", f"Python {platform.python_version()} on {platform.machine()}, {cores} cores")
    device = choose_device(settings.device, settings.threads)
    if device.kind == "cuda":
        import torch

        yield Finding("gpu", "good", f"{torch.cuda.get_device_name()}: models run in bf16")
    else:
        yield Finding("gpu", "off", "no CUDA GPU: models run on the CPU")
    yield Finding("threads", "good", f"{device.threads} per model or index call")
    gpu.set_gpu_enabled(settings.device != "cpu")
    yield _faiss()
    yield from _milvus(settings)
    yield Finding("versions", "good", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))


def _faiss() -> Finding:
    import faiss

    reason = gpu.gpu_unavailable_reason()
    use = (
        f"searches and builds on the CPU: {reason}"
        if reason
        else "builds on the GPU, and searches there if the index fits"
    )
    return Finding("faiss", "good", f"{faiss.__version__}, {faiss.get_compile_options().strip()}: {use}")


def _milvus(settings: Settings) -> Iterator[Finding]:
    if find_spec("pymilvus") is None:
        state: Literal["off", "wrong"] = "off" if settings.index_engine == "faiss" else "wrong"
        yield Finding("milvus", state, "not installed: pip install 'vetrina[milvus]'")
    elif settings.index_engine == "milvus":
        yield Finding("milvus", "good", f"new releases go to {settings.milvus_uri}")


def _encoders(settings: Settings) -> Iterator[Finding]:
    exported = sorted(path.stem for path in cache_folder().glob("bundled-*.onnx"))
    state = "exported already" if exported else "exported at first use, which takes half a minute"
    yield Finding("bundled", "good", f"usable offline ({state}, in {cache_folder()})")
    for entry in filter(lambda entry: entry.library, ENCODERS):
        installed = find_spec(entry.library) is not None
        usage = entry.example if installed else f"{entry.library} is not installed"
        yield Finding(entry.kind, "good" if installed else "off", usage)
    for name in settings.encoders.keys() - {settings.image_encoder, settings.text_encoder}:
        detail = "these options are not used: it is neither image_encoder nor text_encoder"
        yield Finding(f"encoders.{name}", "off", detail)
    encoders = Encoders(choose_device(settings.device, settings.threads), settings.encoders)
    for space, name in (("image", settings.image_encoder), ("text", settings.text_encoder)):
        if name != "bundled":
            try:
                yield Finding(
                    f"{space} encoder",
                    "good",
                    f"{name}: {encoders.load(space, name, settings.encoder_options(name)).dim} dimensions",
                )
            except EXPECTED as error:
                yield Finding(f"{space} encoder", "wrong", error_response(error).message)


def _store(settings: Settings) -> Iterator[Finding]:
    store = settings.store
    if not store.is_dir():
        yield Finding("store", "off", f"{store} does not exist yet: run vetrina build FEED --store {store}")
        return
    try:
        catalogue = Catalogue.current(store)
        check_items(catalogue)
        yield Finding("catalogue", "good", f"{len(catalogue):,} items of {read_report(catalogue).feed}")
    except EXPECTED as error:
        yield Finding("catalogue", "wrong", error_response(error).message)
    yield from _build_inputs(settings)
    encoders = Encoders(choose_device(settings.device, settings.threads), settings.encoders)
    try:
        release = open_current(store)
        yield Finding("release", "good", f"{release.name}: {release.manifest.items:,} items, all checksums match")
        for name, space in release.manifest.indexes.items():
            state: Literal["good", "wrong"] = "good" if space.recall10 >= space.recall_target else "wrong"
            yield Finding(f"space {name}", state, f"{space.encoder}, {space.factory}, recall@10 {space.recall10:.3f}")
            if name in release.manifest.spaces:
                yield from _space_encoder(encoders, release.manifest, name)
                yield _vectors(settings, name, space)
        yield from _photos(settings, release)
        yield _alignment(release)
        yield _behaviour(release.manifest)
    except EXPECTED as error:
        yield Finding("release", "wrong", error_response(error).message)
    yield _access(store)
    yield from _journal(settings)
    current = releases_folder(store) / "current"
    for folder in (releases_folder(store) / name for name in release_names(store)):
        try:
            if folder.resolve() != current.resolve():
                Release(folder)
        except EXPECTED as error:
            yield Finding(f"release {folder.name}", "wrong", error_response(error).message)


def _build_inputs(settings: Settings) -> Iterator[Finding]:
    """Check that the mapping and the image folder of the last build exist."""
    try:
        inputs = read_build_inputs(settings.store)
        load_mapping(settings)
        mapping, images = settings.mapping or inputs.mapping, settings.image_root or inputs.images
    except EXPECTED as error:
        yield Finding("build inputs", "wrong", error_response(error).message)
        return
    if images and not os.path.isdir(images):
        yield Finding("image folder", "wrong", f"{images} does not exist: run vetrina build with --images FOLDER")
    if inputs.feed:
        parts = [
            str(inputs.feed),
            *([f"mapping {mapping}"] if mapping else []),
            *([f"photos {images}"] if images else []),
        ]
        yield Finding("build inputs", "good", ", ".join(parts))


def _photos(settings: Settings, release: Release) -> Iterator[Finding]:
    """Check that the release has most of the photos that the settings allow to be read."""
    references = release.catalogue.column("images").combine_chunks().flatten().to_pylist()
    switched_off = Counter(required_setting(reference, settings) for reference in references)
    allowed = switched_off.pop("", 0)
    rows = release.manifest.spaces["image"].rows if "image" in release.manifest.spaces else 0
    if 2 * rows < allowed:
        detail = (
            f"only {rows:,} of {allowed:,} are in the release: run vetrina build, with --images FOLDER if they moved"
        )
        yield Finding("photos", "wrong", detail)
    elif allowed:
        yield Finding("photos", "good", f"{rows:,} of {allowed:,} are in the release")
    for setting, count in sorted(switched_off.items()):
        yield Finding("photos", "off", f"{count:,} are not read: set {setting} to read them")


def _access(store: Path) -> Finding:
    """Check whether requests to the service need an API key."""
    try:
        keys, mode = list_keys(store), read_access_mode(store)
    except EXPECTED as error:
        return Finding("access", "wrong", error_response(error).message)
    if keys:
        return Finding("access", "good", f"API keys required; {len(keys):,} of them")
    if mode == "none":
        return Finding("access", "good", "keyless: requests from this machine need no API key")
    if is_keyless_by_default(store):
        return Finding("access", "wrong", f"keyless by default, as in version 0.1: {HOW_TO_CHOOSE}")
    return Finding("access", "off", f"no API key, so the service refuses requests: {HOW_TO_CHOOSE}")


def _journal(settings: Settings) -> Iterator[Finding]:
    folder = journal_folder(settings.store)
    starts = segment_starts(folder)
    if not starts:
        return
    try:
        journal = Journal(folder, starts[0] - 1)
        size = 0
        for record in journal.read():
            LiveChange.from_record(record)
            size += len(record.payload)
        newest = max((manifest.journal for manifest in list_manifests(settings.store)), default=0)
        pending = journal.position - newest
        detail = f"{pending:,} live changes wait for the next build, {size / 1e6:.1f} MB in all"
        yield Finding("journal", "good", detail)
    except EXPECTED as error:
        yield Finding("journal", "wrong", error_response(error).message)


def _alignment(release: Release) -> Finding:
    alignment = release.alignment
    if alignment is None:
        return Finding("alignment", "off", "not learned: queries enter the image space without an adapter")
    uses = [
        name for name, used in (("texts", alignment.has_text_adapter), ("photos", alignment.has_photo_adapter)) if used
    ]
    return Finding(
        "alignment",
        "good" if uses else "off",
        f"learned from {alignment.facts.items:,} items, used for {' and '.join(uses) or 'nothing'}",
    )


def _behaviour(manifest: Manifest) -> Finding:
    facts = manifest.behaviour
    if not facts.events:
        return Finding("behaviour", "off", "no events yet: run vetrina events FILE, then vetrina build")
    towers = f"towers {facts.towers}" if facts.towers else "no towers: run vetrina train towers, then vetrina build"
    detail = f"{facts.events:,} events of {facts.users:,} users, {facts.pending:,} of unknown items; {towers}"
    return Finding("behaviour", "good", detail)


def _vectors(settings: Settings, name: str, space: SpaceEntry) -> Finding:
    try:
        vectors = VectorStore(settings.store, name, space.fingerprint, space.dim)
        vectors.check()
    except EXPECTED as error:
        return Finding(f"vectors {name}", "wrong", error_response(error).message)
    return Finding(f"vectors {name}", "good", f"{len(vectors):,} of {space.fingerprint}, all checksums match")


def _space_encoder(encoders: Encoders, release: Manifest, space: str) -> Iterator[Finding]:
    """Report where the encoder of a space cannot be loaded any more, or is another by now."""
    if release.spaces[space].encoder == "bundled":
        return
    try:
        encoders.encoder(release, space)
    except EXPECTED as error:
        yield Finding(f"encoder of {space}", "wrong", error_response(error).message)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
