"""Learns how texts and photos enter the image space, from the catalogue's own pairs of photo and text."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from embed.alignment.adapter_training import SEED, train_photo_adapter, train_text_adapter
from embed.alignment.alignment import Alignment, AlignmentMetadata
from embed.alignment.lora import LoraReport, learn_lora
from embed.alignment.pairs import collect_pairs, collect_photos, group_products
from embed.catalogue import Catalogue
from embed.durable import replace_link, write_folder
from embed.encode_job import SpaceVectors
from embed.encoders import Device, TextEncoder, choose_device, load_image_encoder, load_text_encoder
from embed.errors import EmbedError
from serve.core.errors import BadRequest
from serve.core.progress import Progress, stage_progress
from serve.core.settings import Settings
from serve.jobs.learn_fusion_weights import searched_items
from serve.release.images import image_source

GROWTH = 2  # factor by which items or searches grow until a build learns the alignment again
FEW_SEARCHES, MAX_SEARCHES = 200, 10_000


@dataclass(frozen=True)
class AlignmentReport:
    """What an alignment measured, and whether it is used for texts and for photos."""

    fingerprint: str
    facts: AlignmentMetadata
    has_text_adapter: bool
    has_photo_adapter: bool
    seconds: float


def current_alignment(store: Path) -> Alignment | None:
    """Open the alignment learned last; None before the first. Raises Missing or Damaged where it cannot be used."""
    link = store / "alignment" / "current"
    return Alignment.open(link.parent / os.readlink(link)) if link.is_symlink() else None


def ensure_alignment(
    settings: Settings, catalogue: Catalogue, spaces: Sequence[SpaceVectors], progress: Progress | None
) -> Alignment | None:
    """Return the alignment that fits these spaces, learning it if need be; None without an image space."""
    fingerprints = {space.space: space.fingerprint for space in spaces}
    if "image" not in fingerprints or not settings.align:
        return None
    searched = searched_items(settings, catalogue, MAX_SEARCHES)
    try:
        current = current_alignment(settings.store)
    except EmbedError:
        current = None  # damaged: learned again
    if (
        current is not None
        and current.facts.image == fingerprints["image"]
        and (current.facts.joint or fingerprints.get("text") in (None, current.facts.words))
        and len(catalogue) < GROWTH * current.facts.items
        and len(searched) < GROWTH * max(current.facts.searches, FEW_SEARCHES)
    ):
        return current
    images = next(space for space in spaces if space.space == "image")
    device = choose_device(settings.device, settings.threads)
    return _learn(settings, catalogue, images, searched, _query_encoder(settings, device), device, progress)


def learn_alignment(
    settings: Settings, catalogue: Catalogue, spaces: Sequence[SpaceVectors], progress: Progress | None
) -> AlignmentReport:
    """Learn the alignment again; raises BadRequest where there are no photos."""
    started = time.perf_counter()
    images = {space.space: space for space in spaces}.get("image")
    if images is None:
        raise BadRequest("no photo of the catalogue can be read, nothing to align texts with", "images")
    device = choose_device(settings.device, settings.threads)
    searched = searched_items(settings, catalogue, MAX_SEARCHES)
    learned = _learn(settings, catalogue, images, searched, _query_encoder(settings, device), device, progress)
    seconds = round(time.perf_counter() - started, 1)
    return AlignmentReport(
        learned.fingerprint, learned.facts, learned.has_text_adapter, learned.has_photo_adapter, seconds
    )


def _learn(
    settings: Settings,
    catalogue: Catalogue,
    images: SpaceVectors,
    searched: Sequence[tuple[int, str]],
    encoder: TextEncoder,
    device: Device,
    progress: Progress | None,
) -> Alignment:
    """Learn an alignment and make it the store's current one.

    Args:
        settings: Settings.
        catalogue: Items to learn from.
        images: Rows of the image space.
        searched: Searches, each as a row of the catalogue and the query that led to it.
        encoder: Encodes texts for the alignment.
        device: Device to learn on.
        progress: Called as stages go on.
    """
    torch.set_num_threads(device.threads)  # the last bits of the result depend on it
    folder = settings.store / "alignment"
    products = group_products(catalogue, images)
    pairs = collect_pairs(
        catalogue, images, products, encoder, SEED, stage_progress(progress, "encode searches", "texts"), searched
    )
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
    tensors = train_text_adapter(
        pairs, facts, folder / "training", device.kind, stage_progress(progress, "align texts", "steps")
    )
    tensors |= train_photo_adapter(photos, facts)
    alignment = Alignment(facts, tensors)
    saved = write_folder(folder, alignment.fingerprint, alignment.files())
    replace_link(folder / "current", saved.name)
    for other in folder.iterdir():
        if other.is_dir() and not other.is_symlink() and other != saved:
            shutil.rmtree(other)
    return alignment


def fine_tune(
    settings: Settings, catalogue: Catalogue, spaces: Sequence[SpaceVectors], progress: Progress | None
) -> LoraReport:
    """Fine-tune the CLIP model of the settings on the catalogue; write new weights where they measure surely better."""
    images = {space.space: space for space in spaces}.get("image")
    if images is None:
        raise BadRequest("no photo of the catalogue can be read, nothing to learn from", "images")
    source = image_source(settings)
    try:
        return learn_lora(
            settings.image_encoder,
            settings.encoder_options(settings.image_encoder),
            catalogue,
            source,
            group_products(catalogue, images),
            settings.store / "encoders",
            choose_device(settings.device, settings.threads),
            (lambda done, total: progress("fine-tune", done, total, "steps")) if progress else None,
        )
    finally:
        source.close()


def _query_encoder(settings: Settings, device: Device) -> TextEncoder:
    """Load the encoder of texts for the image space: the image encoder itself where it reads texts, as CLIP does."""
    images = load_image_encoder(settings.image_encoder, device, settings.encoder_options(settings.image_encoder))
    if isinstance(images, TextEncoder):
        return images
    return load_text_encoder(settings.text_encoder, device, settings.encoder_options(settings.text_encoder))
