"""Safe image loading: `fetch` reads the bytes, `decode` turns them into upright sRGB pixels."""

from embed.images.decode import DEFAULT_LIMITS, ImageLimits, ImageRefused, decode_image, decode_pixels
from embed.images.fetch import ImageSource

__all__ = ["DEFAULT_LIMITS", "ImageLimits", "ImageRefused", "ImageSource", "decode_image", "decode_pixels"]
