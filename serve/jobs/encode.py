"""Encodes a store's catalogue, on this machine or on a Ray cluster."""

from typing import Any

from embed.catalogue import Catalogue
from embed.encode_job import SpaceVectors, encode_images, encode_texts
from embed.encoders import choose_device, load_image_encoder, load_text_encoder
from serve.core.progress import Progress, stage_progress
from serve.core.settings import Settings
from serve.release.build_inputs import image_folder
from serve.release.images import image_source

TRIES = 4  # attempts to fetch a remote photo; the next run tries again what failed all of them
FETCHERS = 16  # remote photos that are fetched at a time; fewer from one host (see embed.images.host_throttle)


def encode(settings: Settings, catalogue: Catalogue, progress: Progress | None) -> list[SpaceVectors]:
    """Encode the new content; return each space that has rows or failures."""
    device = choose_device(settings.device, settings.threads)
    source = image_source(settings, TRIES)
    fetched = settings.allow_http_images or bool(settings.image_stores)
    images = encode_images(
        settings.store,
        catalogue,
        load_image_encoder(settings.image_encoder, device, settings.encoder_options(settings.image_encoder)),
        source,
        stage_progress(progress, "encode images", "images"),
        readers=FETCHERS if fetched else device.threads,
        # A GPU encodes images faster than the threads of one process decode them. But hosts are throttled by process.
        processes=device.kind == "cuda" and not fetched,
    )
    source.close()
    encoder = load_text_encoder(settings.text_encoder, device, settings.encoder_options(settings.text_encoder))
    texts = encode_texts(settings.store, catalogue, encoder, stage_progress(progress, "encode texts", "items"))
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


def _source_arguments(settings: Settings) -> dict[str, Any]:
    """Return the arguments of an ImageSource, which is made on another machine."""
    return {
        "root": image_folder(settings),
        "allow_http": settings.allow_http_images,
        "stores": settings.image_stores,
        "limits": settings.image_limits,
        "tries": TRIES,
    }
