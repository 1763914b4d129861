"""Bytes of any picture a shop may send -> one upright RGB image in sRGB, or a refusal that says why."""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from embed.errors import BadInput

RefusalCode = Literal[
    "empty", "not_an_image", "unsupported_format", "truncated",  # what the bytes are
    "too_many_bytes", "too_many_pixels", "too_many_scans", "too_small", "bad_ratio",  # what they would cost or give
    "outside_root", "not_found", "unreadable",  # where a path leads
    "fetch_forbidden", "fetch_failed",  # where a URL leads
]  # fmt: skip

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF")


class ImageRefused(BadInput):
    """An image that is not taken in; `code` is for machines, the message for people."""

    def __init__(self, code: RefusalCode, message: str, field: str = "image") -> None:
        super().__init__(message, field)
        self.code = code

    def __reduce__(self) -> tuple[type["ImageRefused"], tuple[RefusalCode, str, str]]:
        return type(self), (self.code, self.message, self.field)  # so that it survives a process pool


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost. Sides are in pixels; tracking pixels and hairlines are below `min_side`."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000
    min_side: int = 8
    max_ratio: float = 32.0  # long side : short side
    max_scans: int = 100  # of a progressive JPEG: an encoder writes about 10, a decoder bomb thousands


DEFAULT_LIMITS = ImageLimits()


def decode_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS, shrink_to: int | None = None) -> Image.Image:
    """Decode the first frame to an RGB image: upright, in sRGB, transparency on white.

    `shrink_to` (pixels) is a hint for whoever scales down afterwards: a JPEG may then come out at 1/2, 1/4 or 1/8 of
    its size, which is several times cheaper, with both sides still at least `2 * shrink_to`.

    Raises ImageRefused. Nothing is decoded before the header's size is within `limits`.
    """
    if not data:
        raise ImageRefused("empty", "the image is empty (0 bytes): send the file's content")
    if len(data) > limits.max_bytes:
        raise ImageRefused("too_many_bytes", f"the image has {len(data)} bytes; at most {limits.max_bytes} are read")
    # In a JPEG's coded data 0xff is always escaped, so this counts scans (and those of a preview or two).
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > limits.max_scans:
        raise ImageRefused("too_many_scans", f"the JPEG has over {limits.max_scans} scans: save it as a plain JPEG")
    image = _open(data)
    _check_size(*image.size, limits)
    if shrink_to is not None:
        image.draft(None, (2 * shrink_to, 2 * shrink_to))  # does nothing for all but JPEG
    _load(image)
    turn = _turn(image)
    rgb = _to_rgb(image)
    return rgb if turn is None else rgb.transpose(turn)


def is_plain_jpeg(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> bool:
    """Whether any decoder makes the same of it: a whole JPEG, gray or YCbCr, upright, in sRGB, within `limits`.

    A decoder on a card gives half a photo without a word, turns nothing and knows no colour profiles.
    """
    if not (data.startswith(b"\xff\xd8\xff") and data.endswith(b"\xff\xd9") and len(data) <= limits.max_bytes):
        return False
    try:
        image = _open(data)
        _check_size(*image.size, limits)
    except ImageRefused:
        return False
    profile = image.info.get("icc_profile")
    return (
        image.mode in ("L", "RGB")
        and image.info.get("adobe_transform") != 0
        and data.count(b"\xff\xda") <= limits.max_scans
        and _turn(image) is None
        and (not profile or (len(profile) <= _MAX_PROFILE and _to_srgb(profile, image.mode) is None))
    )


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header. Pillow's parsers raise nearly any type on hostile bytes, hence the wide net around just them;
    MemoryError goes through, as it says something about the machine."""
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise _unidentified(data) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, far higher limit
        raise ImageRefused("too_many_pixels", f"the image is too large: {error}") from None
    except Exception as error:
        raise ImageRefused("truncated", f"the image's header is cut short or damaged ({error})") from error


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    size = f"the image is {width}x{height} pixels"
    if width * height > limits.max_pixels:
        raise ImageRefused("too_many_pixels", f"{size}; at most {limits.max_pixels} in all: send a smaller one")
    if max(width, height) > limits.max_ratio * min(width, height):
        raise ImageRefused("bad_ratio", f"{size}; one side may be at most {limits.max_ratio:g} times the other")
    if min(width, height) < limits.min_side:
        raise ImageRefused("too_small", f"{size}; each side must have at least {limits.min_side}")


def _load(image: ImageFile.ImageFile) -> None:
    """Decode the pixels, whole or not at all."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError("something set PIL.ImageFile.LOAD_TRUNCATED_IMAGES: half a photo would be read as a whole")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # as in _open: codecs on hostile bytes
        raise ImageRefused("truncated", f"the image is cut short or damaged ({error})") from error


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What brings the image upright, by EXIF tag 0x112; damaged EXIF is no reason to refuse good pixels."""
    try:
        return _TURNS.get(image.getexif().get(0x0112, 1))
    except MemoryError:
        raise
    except Exception:
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    clear = image.has_transparency_data
    if image.mode == "RGB" and not clear and not profile:
        return image  # by far the most usual
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image, clear = _to_8_bits(image), False
    alpha = None
    if clear:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("RGB", "L", "CMYK"):  # these three an ICC profile may describe
        try:
            image = image.convert("RGB")
        except ValueError:
            raise ImageRefused("unsupported_format", f"pixels in {image.mode} are not read: save as RGB") from None
    transform = _to_srgb(profile, image.mode) if isinstance(profile, bytes) and len(profile) <= _MAX_PROFILE else None
    rgb = image.convert("RGB") if transform is None else ImageCms.applyTransform(image, transform)
    if rgb is None or alpha is None:
        return rgb or image  # applyTransform gives None only in place
    white = Image.new("RGB", rgb.size, "white")
    white.paste(rgb, mask=alpha)
    return white


_MAX_PROFILE = 4 * 2**20  # bytes; the largest printer profiles have 2 to 3 MB


@lru_cache(maxsize=8)  # a shop's photos share a handful of profiles, and building a transform costs milliseconds
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """None: already sRGB by its own name, or no usable profile for this mode; the pixels then stay as they are."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grays of 16 or 32 bits or floats -> 8 bits. Pillow's own conversion clips at 255 and leaves a white sheet.

    16 bits are divided by 256. The others have no agreed white: it is the first of 1, 255, 65535 that nothing exceeds,
    and where that fails (negative or larger values) their own range is stretched.
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


_OUR_FORMATS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")  # and by the bytes from the ninth on:
_OUR_CONTAINERS = (b"WEBP", b"avif", b"avis")
_OTHER_FORMATS = {
    b"8BPS": "PSD",
    b"%PDF": "PDF",
    b"%!PS": "PostScript",
    b"\x00\x00\x01\x00": "ICO",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
}


def _unidentified(data: bytes) -> ImageRefused:
    """Say what the bytes are instead, as a feed's author cannot see it from a file called .jpg."""
    if data.startswith(_OUR_FORMATS) or data[8:12] in _OUR_CONTAINERS:
        return ImageRefused("truncated", "the image's header is cut short or damaged")
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return ImageRefused("not_an_image", "not an image: an HTML page, such as a server's error page saved as one")
    if b"<svg" in head:
        return ImageRefused("unsupported_format", "SVG drawings are never rendered: export it as PNG or JPEG")
    other = next((name for magic, name in _OTHER_FORMATS.items() if data.startswith(magic)), None)
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        other = "HEIC"
    if other is not None:
        return ImageRefused("unsupported_format", f"{other} is not read: use one of {', '.join(FORMATS)}")
    return ImageRefused("not_an_image", f"not an image, or damaged beyond knowing: use one of {', '.join(FORMATS)}")
