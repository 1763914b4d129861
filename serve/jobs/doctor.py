"""The doctor: what this machine can do, and what is wrong with a store."""

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

from embed.catalogue import Catalogue, check_items, read_report
from embed.encoders import choose_device
from embed.encoders.cpu_model import cache_folder
from embed.vector_store import VectorStore
from index import gpu
from index.journal import Journal, segment_starts
from serve.core.errors import EXPECTED, error_response
from serve.core.settings import Settings
from serve.engine.query_encoders import Encoders
from serve.live.change_record import LiveChange, journal_folder
from serve.release.manifest import Manifest, SpaceEntry
from serve.release.release import Release
from serve.release.repository import list_manifests, open_current, release_names, releases_folder

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
    """Something looked at: `good`, `off` (not there, and fine so) or `wrong`, with what to do about it."""

    subject: str
    state: Literal["good", "off", "wrong"]
    detail: str


def examine(settings: Settings) -> list[Finding]:
    """Look at the machine, then at the store."""
    return [*_machine(settings), *_encoders(settings), *_store(settings)]


def _machine(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    yield Finding("machine", "good", f"Python {platform.python_version()} on {platform.machine()}, {cores} cores")
    device = choose_device(settings.device, settings.threads)
    if device.kind == "cuda":
        import torch

        yield Finding("gpu", "good", f"{torch.cuda.get_device_name()}: models run in bf16")
    else:
        yield Finding("gpu", "off", "no CUDA card here: models run on the CPU")
    yield Finding("threads", "good", f"{device.threads} for each model and index call")
    gpu.allow(settings.device != "cpu")
    yield _faiss()
    yield from _milvus(settings)
    yield Finding("versions", "good", ", ".join(f"{name} {_version(name)}" for name in PACKAGES))


def _faiss() -> Finding:
    import faiss

    absence = gpu.absence()
    where = (
        f"searches and builds on the CPU, as {absence}" if absence else "builds on the card, and searches where it fits"
    )
    return Finding("faiss", "good", f"{faiss.__version__}, {faiss.get_compile_options().strip()}: {where}")


def _milvus(settings: Settings) -> Iterator[Finding]:
    if find_spec("pymilvus") is None:
        state: Literal["off", "wrong"] = "off" if settings.index_engine == "faiss" else "wrong"
        yield Finding("milvus", state, "not installed: pip install 'vetrina[milvus]'")
    elif settings.index_engine == "milvus":
        yield Finding("milvus", "good", f"new releases go to {settings.milvus_uri}")


def _encoders(settings: Settings) -> Iterator[Finding]:
    exported = sorted(path.stem for path in cache_folder().glob("bundled-*.onnx"))
    made = "exported already" if exported else "exported at first use, half a minute"
    yield Finding("bundled", "good", f"usable without a hub ({made}, in {cache_folder()})")
    for subject, module, how in (
        ("open_clip", "open_clip", 'image_encoder = "open_clip:ViT-B-32/laion2b_s34b_b79k", or a local weights file'),
        (
            "st",
            "sentence_transformers",
            'text_encoder = "st:sentence-transformers/all-MiniLM-L6-v2", or a local folder',
        ),
    ):
        there = find_spec(module) is not None
        yield Finding(subject, "good" if there else "off", how if there else f"{module} is not installed")
    encoders = Encoders(choose_device(settings.device, settings.threads))
    for space, name in (("image", settings.image_encoder), ("text", settings.text_encoder)):
        if name != "bundled":
            try:
                yield Finding(f"{space} encoder", "good", f"{name}: {encoders.load(space, name).dim} values")
            except EXPECTED as error:
                yield Finding(f"{space} encoder", "wrong", error_response(error).message)


def _store(settings: Settings) -> Iterator[Finding]:
    store = settings.store
    if not store.is_dir():
        yield Finding("store", "off", f"{store} is not there yet: vetrina build FEED --store {store}")
        return
    try:
        catalogue = Catalogue.current(store)
        check_items(catalogue)
        yield Finding("catalogue", "good", f"{len(catalogue):,} items of {read_report(catalogue).feed}")
    except EXPECTED as error:
        yield Finding("catalogue", "wrong", error_response(error).message)
    try:
        release = open_current(store)
        yield Finding("release", "good", f"{release.name}: {release.manifest.items:,} items, every checksum right")
        for name, space in release.manifest.indexes.items():
            state: Literal["good", "wrong"] = "good" if space.recall10 >= space.recall_target else "wrong"
            yield Finding(f"space {name}", state, f"{space.encoder}, {space.factory}, recall@10 {space.recall10:.3f}")
            if name in release.manifest.spaces:
                yield _vectors(settings, name, space)
        yield _alignment(release)
        yield _behaviour(release.manifest)
    except EXPECTED as error:
        yield Finding("release", "wrong", error_response(error).message)
    yield from _journal(settings)
    current = releases_folder(store) / "current"
    for folder in (releases_folder(store) / name for name in release_names(store)):
        try:
            if folder.resolve() != current.resolve():
                Release(folder)
        except EXPECTED as error:
            yield Finding(f"release {folder.name}", "wrong", error_response(error).message)


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
        waiting = journal.position - newest
        detail = f"{waiting:,} live changes wait for the next build, {size / 1e6:.1f} MB kept in all"
        yield Finding("journal", "good", detail)
    except EXPECTED as error:
        yield Finding("journal", "wrong", error_response(error).message)


def _alignment(release: Release) -> Finding:
    aligned = release.alignment
    if aligned is None:
        return Finding("alignment", "off", "queries enter the image space as they are encoded (align = false)")
    ways = [name for name, there in (("words", aligned.takes_words), ("photos", aligned.adapts_photos)) if there]
    return Finding(
        "alignment",
        "good" if ways else "off",
        f"of {aligned.facts.items:,} items, used for {' and '.join(ways) or 'nothing'}",
    )


def _behaviour(manifest: Manifest) -> Finding:
    facts = manifest.behaviour
    if not facts.events:
        return Finding("behaviour", "off", "no events yet: vetrina events FILE, then vetrina build")
    towers = f"towers {facts.towers}" if facts.towers else "no towers: vetrina train towers, then vetrina build"
    told = f"{facts.events:,} events of {facts.users:,} shoppers, {facts.pending:,} of unknown items; {towers}"
    return Finding("behaviour", "good", told)


def _vectors(settings: Settings, name: str, space: SpaceEntry) -> Finding:
    try:
        vectors = VectorStore(settings.store, name, space.fingerprint, space.dim)
        vectors.check()
    except EXPECTED as error:
        return Finding(f"vectors {name}", "wrong", error_response(error).message)
    return Finding(f"vectors {name}", "good", f"{len(vectors):,} of {space.fingerprint}, every part as written")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
