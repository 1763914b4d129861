"""The alignment of a store: learned from its catalogue's own pairs, kept while the catalogue is much the same."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from embed.alignment.alignment import Alignment, AlignmentMetadata
from embed.alignment.learning import SEED, learn_photos, learn_words
from embed.alignment.lora import LoraReport, learn_lora
from embed.alignment.pairs import collect_pairs, collect_photos, products_of
from embed.catalogue import Catalogue
from embed.durable import point, write_folder
from embed.encode_job import SpaceVectors
from embed.encoders import Device, TextEncoder, choose_device, load_image_encoder, load_text_encoder
from embed.errors import EmbedError
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.jobs.learn_fusion_weights import searched_items
from serve.release.images import image_source

GROWTH = 2  # times the items, or the searches, it was learned from, at which a build learns it anew
FEW_SEARCHES, MAX_SEARCHES = 200, 10_000
Progress = Callable[[str, float, float, str], None]
"""stage, done, total, unit"""


@dataclass(frozen=True)
class AlignmentReport:
    """What was learned: how it measures, and whether words and photos pass through an adapter from now on."""

    fingerprint: str
    facts: AlignmentMetadata
    takes_words: bool
    adapts_photos: bool
    seconds: float


def current_alignment(store: Path) -> Alignment | None:
    """The alignment learned last, or None before the first; raises Missing or Damaged where it cannot be used."""
    link = store / "alignment" / "current"
    return Alignment.open(link.parent / os.readlink(link)) if link.is_symlink() else None


def aligned(
    settings: Settings, catalogue: Catalogue, spaces: Sequence[SpaceVectors], progress: Progress | None
) -> Alignment | None:
    """The alignment that fits these spaces: the current one, or one that is learned now; None without image space."""
    made = {space.space: space.fingerprint for space in spaces}
    if "image" not in made or not settings.align:
        return None
    searched = searched_items(settings, catalogue, MAX_SEARCHES)
    try:
        current = current_alignment(settings.store)
    except EmbedError:
        current = None  # damaged: learned again
    if (
        current is not None
        and current.facts.image == made["image"]
        and (current.facts.joint or made.get("text") in (None, current.facts.words))
        and len(catalogue) < GROWTH * current.facts.items
        and len(searched) < GROWTH * max(current.facts.searches, FEW_SEARCHES)
    ):
        return current
    images = next(space for space in spaces if space.space == "image")
    device = choose_device(settings.device, settings.threads)
    return learn(settings, catalogue, images, searched, _words_encoder(settings, device), device, progress)


def align(
    settings: Settings, catalogue: Catalogue, spaces: Sequence[SpaceVectors], progress: Progress | None
) -> AlignmentReport:
    """Learn the alignment anew; raises BadRequest where there are no images."""
    started = time.perf_counter()
    images = {space.space: space for space in spaces}.get("image")
    if images is None:
        raise BadRequest("no item has an image that can be used: there is nothing to align words with", "images")
    device = choose_device(settings.device, settings.threads)
    searched = searched_items(settings, catalogue, MAX_SEARCHES)
    found = learn(settings, catalogue, images, searched, _words_encoder(settings, device), device, progress)
    took = round(time.perf_counter() - started, 1)
    return AlignmentReport(found.fingerprint, found.facts, found.takes_words, found.adapts_photos, took)


def learn(
    settings: Settings,
    catalogue: Catalogue,
    images: SpaceVectors,
    searched: Sequence[tuple[int, str]],
    encoder: TextEncoder,
    device: Device,
    progress: Progress | None,
) -> Alignment:
    """Learn an alignment and make it the store's current one."""

    def told(stage: str, unit: str) -> Callable[[int, int], None] | None:
        return (lambda done, total: progress(stage, done, total, unit)) if progress else None

    torch.set_num_threads(device.threads)  # what is learned depends on it in the last bits
    folder = settings.store / "alignment"
    products = products_of(catalogue, images)
    pairs = collect_pairs(catalogue, images, products, encoder, SEED, told("encode searches", "texts"), searched)
    photos = collect_photos(images, products, SEED)
    facts = AlignmentMetadata(
        image=images.fingerprint,
        words=encoder.fingerprint,
        joint=encoder.fingerprint == images.fingerprint,
        items=len(catalogue),
        pairs=len(pairs),
        photographed=len(set(photos.product.tolist())),
        searches=len(searched),
    )
    tensors = learn_words(pairs, facts, folder / "training", device.kind, told("align words", "steps"))
    tensors |= learn_photos(photos, facts)
    made = Alignment(facts, tensors)
    saved = write_folder(folder, made.fingerprint, made.files())
    point(folder / "current", saved.name)
    for other in folder.iterdir():
        if other.is_dir() and not other.is_symlink() and other != saved:
            shutil.rmtree(other)
    return made


def fine_tune(
    settings: Settings, catalogue: Catalogue, spaces: Sequence[SpaceVectors], progress: Progress | None
) -> LoraReport:
    """Fine-tune the CLIP model of the settings on the catalogue; new weights are kept where they surely help."""
    images = {space.space: space for space in spaces}.get("image")
    if images is None:
        raise BadRequest("no item has an image that can be used: there is nothing to learn from", "images")
    source = image_source(settings)
    try:
        return learn_lora(
            settings.image_encoder,
            catalogue,
            source,
            products_of(catalogue, images),
            settings.store / "encoders",
            choose_device(settings.device, settings.threads),
            (lambda done, total: progress("fine-tune", done, total, "steps")) if progress else None,
        )
    finally:
        source.close()


def _words_encoder(settings: Settings, device: Device) -> TextEncoder:
    """What encodes words for the image space: the image encoder where it reads words too, as CLIP does."""
    images = load_image_encoder(settings.image_encoder, device)
    return images if isinstance(images, TextEncoder) else load_text_encoder(settings.text_encoder, device)
