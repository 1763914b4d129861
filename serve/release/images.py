"""Opens the source that item photos are read from."""

from pathlib import Path

from embed.catalogue import Catalogue, read_report
from embed.images import ImageSource
from serve.core.settings import Settings


def image_source(settings: Settings) -> ImageSource:
    """Where images are read from: the image root, or else the folder of the catalogue's feed."""
    root = settings.image_root or Path(read_report(Catalogue.current(settings.store)).folder)
    return ImageSource(
        root, allow_http=settings.allow_http_images, stores=settings.image_stores, limits=settings.image_limits
    )
