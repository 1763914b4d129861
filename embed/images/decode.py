"""Decodes the bytes of any image to one upright RGB image in sRGB, or refuses it with a reason."""

import io
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from embed.errors import BadInput
from embed.images.preprocessing import Pixels

RefusalCode = Literal[
    "empty", "not_an_image", "unsupported_format", "truncated",  # content
    "too_many_bytes", "too_many_pixels", "too_many_scans", "too_small", "bad_ratio",  # size
    "outside_root", "not_found", "unreadable",  # paths
    "fetch_forbidden", "fetch_failed",  # URLs
]  # fmt: skip

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")


class ImageRefused(BadInput):
    """An image is refused; `code` is for programs, the message for people."""

    def __init__(self, code: RefusalCode, message: str, field: str = "image") -> None:
        super().__init__(message, field)
        self.code = code

    def __reduce__(self) -> tuple[type["ImageRefused"], tuple[RefusalCode, str, str]]:
        return type(self), (self.code, self.message, self.field)  # supports pickling, for process pools


@dataclass(frozen=True)
class ImageLimits:
    """Limits of one image. Sides are in pixels; `min_side` excludes tracking pixels and hairlines."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    min_side: int = 8
    max_ratio: float = 32.0  # long side : short side
    max_scans: int = 100  # of a progressive JPEG: an encoder writes about 10, a decoder bomb thousands


DEFAULT_LIMITS = ImageLimits()


def decode_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, shrink_to: int | None = None) -> Image.Image:
    """Decode the first frame to an RGB image: upright, in sRGB, transparency on white.

    `shrink_to` (pixels) is a hint for callers that scale down afterwards: a JPEG may then be decoded at 1/2, 1/4 or 1/8
    of its size, several times faster, with both sides still at least `2 * shrink_to`.

    Raises ImageRefused. Nothing is decoded before the size in the header is checked against `limits`.
    """
    return _decode(_open_checked(data, limits), shrink_to)


def decode_pixels(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, shrink_to: int | None = None) -> Pixels:
    """Decode as `decode_image` does, to an array [height, width, 3], and plain JPEGs faster.

    What simplejpeg does not decode without a complaint, Pillow decodes or refuses.
    """
    image = _open_checked(data, limits)
    if image.format == "JPEG" and image.mode in ("L", "RGB") and not _has_other_colors(image):
        width, height = image.size if shrink_to is None else _scaled_size(*image.size, shrink_to)
        with suppress(ValueError):
            if simplejpeg.decode_jpeg_header(data)[:2] == image.size[::-1]:
                pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
                return _turn(pixels, _orientation(image))
    return np.array(_decode(image, shrink_to))


def _scaled_size(width: int, height: int, shrink_to: int) -> tuple[int, int]:
    """Return the size at which a JPEG is decoded: an eighth, a quarter, half or all of its own.

    It is the least with both sides at least `2 * shrink_to`. (libjpeg-turbo 3.1 decodes at other eighths too, but up to
    twice as slowly as in full.) Sizes are whole, so the sides' ratio changes a little. One is passed over where the
    long side would be another length once the short one is scaled to `shrink_to`: the crop would move by half a pixel.
    """

    def scaled_long_side(sides: tuple[int, int]) -> int:
        return int(shrink_to * max(sides) / min(sides))

    sizes = ((-(-width // by), -(-height // by)) for by in (8, 4, 2))
    fitting = (
        size
        for size in sizes
        if min(size) >= 2 * shrink_to and scaled_long_side(size) == scaled_long_side((width, height))
    )
    return next(fitting, (width, height))


def _open_checked(data: bytes, limits: ImageLimits) -> ImageFile.ImageFile:
    """Read the header of an image within the limits."""
    if not data:
        raise ImageRefused("empty", "the image is empty (0 bytes): send the file's content")
    if len(data) > limits.max_bytes:
        raise ImageRefused("too_many_bytes", f"the image has {len(data)} bytes; at most {limits.max_bytes} are allowed")
    # In a JPEG's coded data 0xff is always escaped, so this counts scans (and those of a preview or two).
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > limits.max_scans:
        raise ImageRefused("too_many_scans", f"the JPEG has over {limits.max_scans} scans: save it as a plain JPEG")
    image = _open(data)
    _check_size(*image.size, limits)
    return image


def _decode(image: ImageFile.ImageFile, shrink_to: int | None) -> Image.Image:
    if shrink_to is not None:
        image.draft(None, (2 * shrink_to, 2 * shrink_to))  # does nothing for all but JPEG
    _load(image)
    transpose = _TRANSPOSES.get(_orientation(image))
    rgb = _to_rgb(image)
    return rgb if transpose is None else rgb.transpose(transpose)


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header.

    Pillow's parsers raise nearly any exception on hostile bytes, so all are caught here. MemoryError is not, because it
    concerns the machine.
    """
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, much higher limit
        raise ImageRefused("too_many_pixels", f"the image is too large: {error}") from None
    except Exception as error:
        raise ImageRefused("truncated", f"the image's header is truncated or damaged ({error})") from error


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    size = f"the image is {width}x{height} pixels"
    if width * height > limits.max_pixels:
        raise ImageRefused(
            "too_many_pixels", f"{size}; at most {limits.max_pixels} are allowed in total: send a smaller image"
        )
    if max(width, height) > limits.max_ratio * min(width, height):
        raise ImageRefused("bad_ratio", f"{size}; one side may be at most {limits.max_ratio:g} times the other")
    if min(width, height) < limits.min_side:
        raise ImageRefused("too_small", f"{size}; each side must have at least {limits.min_side}")


def _load(image: ImageFile.ImageFile) -> None:
    """Decode all pixels, or raise ImageRefused."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: half a photo would be read as a whole one; unset it"
        )
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as in _open: codecs on hostile bytes
        raise ImageRefused("truncated", f"the image is truncated or damaged ({error})") from error


_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    """Return EXIF tag 0x112, which says how an image is turned; 1 is upright, damaged EXIF is ignored."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return orientation if orientation in _TRANSPOSES else 1


def _turn(pixels: Pixels, orientation: int) -> Pixels:
    """Turn an image upright, like Pillow's transposes."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _has_other_colors(image: Image.Image) -> bool:
    """Return whether the colours of a JPEG must be converted: another profile than sRGB, or no usual coding."""
    profile: bytes = image.info.get("icc_profile") or b""
    known = not profile or (len(profile) <= _MAX_PROFILE and _to_srgb(profile, image.mode) is None)
    return not known or image.info.get("adobe_transform") == 0


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    transparent = image.has_transparency_data
    if image.mode == "RGB" and not transparent and not profile:
        return image  # by far the most common case
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image, transparent = _to_8_bits(image), False
    alpha = None
    if transparent:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("RGB", "L", "CMYK"):  # ICC profiles exist for these three
        try:
            image = image.convert("RGB")
        except ValueError:
            raise ImageRefused("unsupported_format", f"pixel mode {image.mode} is not supported: save as RGB") from None
    transform = _to_srgb(profile, image.mode) if isinstance(profile, bytes) and len(profile) <= _MAX_PROFILE else None
    rgb = image.convert("RGB") if transform is None else ImageCms.applyTransform(image, transform)
    if rgb is None or alpha is None:
        return rgb or image  # applyTransform returns None only in place
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


_MAX_PROFILE = 4 * 2**20  # bytes; the largest printer profiles have 2 to 3 MB


@lru_cache(maxsize=8)  # a shop's photos share a few profiles, and building a transform takes milliseconds
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform to sRGB; None, to leave the pixels, if the profile is sRGB by its name or unusable."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert grays of 16 or 32 bits or floats to 8 bits. Pillow's own conversion clips at 255, which gives white.

    16-bit values are divided by 256. The others have no agreed white: the first of 1, 255, 65535 that no value exceeds
    is taken; with negative or larger values, the range of the values is stretched.
    """
    values = np.asarray(image)  # [height, width]
    if image.mode.startswith("I;16"):
        return Image.fromarray((values >> 8).astype(np.uint8))
    values = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0).clip(-1e30, 1e30)
    low, high = float(values.min()), float(values.max())
    whites = [white for white in (1.0, 255.0, 65535.0) if low >= 0 and high <= white]
    if whites:
        low, high = 0.0, whites[0]
    return Image.fromarray(((values - low) * (255 / (high - low or 1.0))).astype(np.uint8))


_SUPPORTED_FORMATS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")  # at the start; from byte 8 on:
_SUPPORTED_CONTAINERS = (b"WEBP", b"avif", b"avis")
_UNSUPPORTED_FORMATS = {
    b"8BPS": "PSD",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\x00\x00\x01\x00": "ICO",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
}


def _unidentified(data: bytes) -> ImageRefused:
    """Make a refusal that names the actual format, which a feed's author cannot tell from a file named .jpg."""
    if data.startswith(_SUPPORTED_FORMATS) or data[8:12] in _SUPPORTED_CONTAINERS:
        return ImageRefused("truncated", "the image's header is truncated or damaged")
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return ImageRefused("not_an_image", "not an image but an HTML page, such as a saved error page")
    if b"<svg" in head:
        return ImageRefused("unsupported_format", "SVG is not supported: export as PNG or JPEG")
    other = next((name for magic, name in _UNSUPPORTED_FORMATS.items() if data.startswith(magic)), None)
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        other = "HEIC"
    if other is not None:
        return ImageRefused("unsupported_format", f"{other} is not supported: use one of {', '.join(FORMATS)}")
    return ImageRefused("not_an_image", f"not an image, or unrecognizable: use one of {', '.join(FORMATS)}")
