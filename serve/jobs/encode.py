"""Encoding a store's catalogue, here or on a Ray cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from embed.catalogue import Catalogue, read_report
from embed.encode_job import SpaceVectors, encode_images, encode_texts
from embed.encoders import choose_device, load_image_encoder, load_text_encoder
from embed.images import ImageSource
from serve.core.settings import Settings

TRIES = 4  # of an image from elsewhere; one that fails them all is left to the next run
FETCHERS = 16  # images from elsewhere that are waited for at a time; of one host fewer (see embed.images.host_throttle)
Progress = Callable[[str, float, float, str], None]
"""stage, done, total, unit"""


def encode(settings: Settings, catalogue: Catalogue, progress: Progress | None) -> list[SpaceVectors]:
    """Encode what is new; the rows of each space that has any, or of which there is to be told what failed."""
    device = choose_device(settings.device, settings.threads)
    source = ImageSource(**_source(settings, catalogue))
    fetched = settings.allow_http_images or bool(settings.image_stores)
    images = encode_images(
        settings.store,
        catalogue,
        load_image_encoder(settings.image_encoder, device),
        source,
        _told(progress, "encode images", "images"),
        readers=FETCHERS if fetched else device.threads,
        # A card takes images faster than threads of one process make them ready. But only one process is polite.
        processes=device.kind == "cuda" and not fetched,
    )
    source.close()
    encoder = load_text_encoder(settings.text_encoder, device)
    texts = encode_texts(settings.store, catalogue, encoder, _told(progress, "encode texts", "items"))
    return [space for space in (images, texts) if len(space.owners) or space.failures]


def encode_on_ray(settings: Settings, catalogue: Catalogue, progress: Progress | None) -> list[SpaceVectors]:
    """As `encode`, by the workers of a Ray cluster."""
    from embed.ray_job import Cluster, encode_images_on_ray, encode_texts_on_ray

    device = choose_device("cpu", settings.threads)  # encoders here only tell what space they make
    cluster = Cluster(settings.device, settings.threads)
    try:
        images = encode_images_on_ray(
            cluster,
            settings.store,
            catalogue,
            load_image_encoder(settings.image_encoder, device),
            _source(settings, catalogue),
            _told(progress, "encode images", "images"),
        )
        encoder = load_text_encoder(settings.text_encoder, device)
        texts = encode_texts_on_ray(
            cluster, settings.store, catalogue, encoder, _told(progress, "encode texts", "texts")
        )
    finally:
        cluster.close()
    return [space for space in (images, texts) if len(space.owners) or space.failures]


def filled(spaces: list[SpaceVectors]) -> list[SpaceVectors]:
    """The spaces that have any rows."""
    return [space for space in spaces if len(space.owners)]


def _source(settings: Settings, catalogue: Catalogue) -> dict[str, Any]:
    """What an ImageSource is made of, here or on another machine."""
    root = settings.image_root or Path(read_report(catalogue).folder)
    return {
        "root": root,
        "allow_http": settings.allow_http_images,
        "stores": settings.image_stores,
        "limits": settings.image_limits,
        "tries": TRIES,
    }


def _told(progress: Progress | None, stage: str, unit: str) -> Callable[[int, int], None] | None:
    return (lambda done, total: progress(stage, done, total, unit)) if progress else None
