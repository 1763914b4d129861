"""Opens the source that item photos are read from."""

from embed.images import ImageSource
from serve.core.settings import Settings
from serve.release.build_inputs import image_folder


def image_source(settings: Settings, tries: int = 1) -> ImageSource:
    """Open the source of photos: the store's image folder, and the hosts and object stores that the settings allow.

    A remote photo is fetched `tries` times before it fails.
    """
    return ImageSource(
        image_folder(settings),
        allow_http=settings.allow_http_images,
        stores=settings.image_stores,
        limits=settings.image_limits,
        tries=tries,
    )
