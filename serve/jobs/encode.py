"""Encodes a store's catalogue, on this machine or on a Ray cluster."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from embed.catalogue import Catalogue
from embed.encode_job import (
    EncodedBatch,
    ImageReference,
    SpaceVectors,
    encode_images,
    encode_stream,
    encode_texts,
    iterate_images,
    iterate_texts,
)
from embed.encoders import ImageEncoder, TextEncoder, choose_device, load_image_encoder, load_text_encoder
from embed.images.image_reader import ImageReader
from serve.core.progress import Progress, stage_progress
from serve.core.settings import Settings
from serve.release.build_inputs import image_folder
from serve.release.images import image_source
from serve.release.manifest import Manifest

TRIES = 4  # attempts to fetch a remote photo; the next run tries again what failed all of them
FETCHERS = 16  # remote photos that are fetched at a time; fewer from one host (see embed.images.host_throttle)
SAMPLE, SAMPLE_SECONDS = 512, 3.0  # contents, and about how long, that a rate is measured
TEXT_BATCH = 64


@dataclass(frozen=True)
class SpaceEncoders:
    """The encoders that the settings name."""

    image: ImageEncoder
    text: TextEncoder

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each space."""
        return {"image": self.image.fingerprint, "text": self.text.fingerprint}


def has_changed(encoders: SpaceEncoders, release: Manifest) -> bool:
    """Return whether one of the encoders makes another space than the release has."""
    return any(encoders.fingerprints[name] != entry.fingerprint for name, entry in release.spaces.items())


def load_encoders(settings: Settings) -> SpaceEncoders:
    """Load the encoders of the settings; raises BadInput, Missing or Damaged where one cannot be loaded."""
    device = choose_device(settings.device, settings.threads)
    return SpaceEncoders(
        load_image_encoder(settings.image_encoder, device, settings.encoder_options(settings.image_encoder)),
        load_text_encoder(settings.text_encoder, device, settings.encoder_options(settings.text_encoder)),
    )


def encode(
    settings: Settings, catalogue: Catalogue, encoders: SpaceEncoders, progress: Progress | None
) -> list[SpaceVectors]:
    """Encode the new content; return each space that has rows or failures."""
    source = image_source(settings, TRIES)
    readers, processes = _readers(settings)
    images = encode_images(
        settings.store,
        catalogue,
        encoders.image,
        source,
        stage_progress(progress, "encode images", "images"),
        readers=readers,
        processes=processes,
    )
    source.close()
    texts = encode_texts(settings.store, catalogue, encoders.text, stage_progress(progress, "encode texts", "items"))
    return [space for space in (images, texts) if len(space.owners) or space.failures]


def encode_on_ray(settings: Settings, catalogue: Catalogue, progress: Progress | None) -> list[SpaceVectors]:
    """Encode the new content with the workers of a Ray cluster; return each space that has rows or failures."""
    from embed.ray_job import RayCluster, encode_images_on_ray, encode_texts_on_ray

    device = choose_device("cpu", settings.threads)  # the local encoders only name the spaces
    image_options, text_options = map(settings.encoder_options, (settings.image_encoder, settings.text_encoder))
    cluster = RayCluster(settings.device, settings.threads)
    try:
        images = encode_images_on_ray(
            cluster,
            settings.store,
            catalogue,
            load_image_encoder(settings.image_encoder, device, image_options),
            image_options,
            _source_arguments(settings),
            stage_progress(progress, "encode images", "images"),
        )
        encoder = load_text_encoder(settings.text_encoder, device, text_options)
        texts = encode_texts_on_ray(
            cluster, settings.store, catalogue, encoder, text_options, stage_progress(progress, "encode texts", "items")
        )
    finally:
        cluster.close()
    return [space for space in (images, texts) if len(space.owners) or space.failures]


def nonempty_spaces(spaces: list[SpaceVectors]) -> list[SpaceVectors]:
    """Return the spaces that have rows."""
    return [space for space in spaces if len(space.owners)]


def measure_image_rate(settings: Settings, catalogue: Catalogue, encoder: ImageEncoder) -> float | None:
    """Return how many photos a second are read and encoded, on a sample; None if none of it can be read."""
    images = list({image.reference: image for image in iterate_images(catalogue)}.values())
    order = np.random.default_rng(0).permutation(len(images))[:SAMPLE].tolist()
    until = time.perf_counter() + SAMPLE_SECONDS

    def sample() -> Iterator[ImageReference]:
        for place in order:
            if time.perf_counter() < until:
                yield images[place]

    encoder.encode_images([encoder.prepare(np.zeros((8, 8, 3), np.uint8))])  # the first call may take longer
    source = image_source(settings, TRIES)
    reader = ImageReader(source, encoder.prepare, encoder.shrink_to, _has_none)
    encoded, started = 0, None
    for result in encode_stream(sample(), encoder, reader, _has_none, *_readers(settings)):
        started = started or time.perf_counter()  # by then the readers run
        encoded += len(result.keys) if isinstance(result, EncodedBatch) else 0
    source.close()
    return encoded / (time.perf_counter() - started) if encoded and started else None


def measure_text_rate(catalogue: Catalogue, encoder: TextEncoder) -> float | None:
    """Return how many texts a second are encoded, on a sample; None without texts."""
    texts = [text for _, _, _, text in iterate_texts(catalogue)]
    sample = [texts[place] for place in np.random.default_rng(0).permutation(len(texts))[:SAMPLE].tolist()]
    if not sample:
        return None
    encoder.encode_texts(sample[:1])  # the first call may take longer
    encoded, started = 0, time.perf_counter()
    while encoded < len(sample) and time.perf_counter() < started + SAMPLE_SECONDS:
        encoded += len(encoder.encode_texts(sample[encoded : encoded + TEXT_BATCH]).vectors)
    return encoded / (time.perf_counter() - started)


def _has_none(key: bytes) -> bool:
    """Return that no content is known; a function of the module, because processes get it too."""
    return False


def _readers(settings: Settings) -> tuple[int, bool]:
    """Return how many readers of photos run at a time, and whether they are processes."""
    fetched = settings.allow_http_images or bool(settings.image_stores)
    device = choose_device(settings.device, settings.threads)
    # A GPU encodes images faster than the threads of one process decode them. But hosts are throttled by process.
    return FETCHERS if fetched else device.threads, device.kind == "cuda" and not fetched


def _source_arguments(settings: Settings) -> dict[str, Any]:
    """Return the arguments of an ImageSource, which is made on another machine."""
    return {
        "root": image_folder(settings),
        "allow_http": settings.allow_http_images,
        "stores": settings.image_stores,
        "limits": settings.image_limits,
        "tries": TRIES,
    }
