"""Decoding of images: every kind of image gives the same pixels, or a refusal."""

import io
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from helpers.images import refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageDraw, ImageFile

from embed.images.decode import ImageLimits, ImageRefused, decode_image


def reference() -> Image.Image:
    image = Image.new("RGB", (96, 64), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 15, 15), fill=(20, 40, 200))
    draw.polygon(((24, 56), (24, 24), (48, 16), (60, 32), (88, 40), (88, 56)), fill=(200, 30, 30))
    return image


def encoded(image: Image.Image, format_: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def difference(one: Image.Image, other: Image.Image) -> float:
    assert one.size == other.size
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


# ---------------------------------------------------------------------------------------------------------- decoding


def turned(number: int, by: Image.Transpose) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = number
    return encoded(reference().transpose(by), "JPEG", quality=95, exif=exif)


def see_through(mode: str) -> Image.Image:
    """The reference with its white cut out, and black lying under the hole."""
    white = np.asarray(reference()).min(axis=2) == 255
    pixels = np.dstack([np.asarray(reference()) * ~white[..., None], np.where(white, 0, 255)]).astype(np.uint8)
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("RGB").quantize(16)
        image.info["transparency"] = image.getpixel((95, 0))
    return image


def frames(format_: str) -> bytes:
    others = [Image.new("RGB", (96, 64), colour) for colour in ("green", "blue")]
    return encoded(reference(), format_, save_all=True, append_images=others, duration=50)


SAME: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encoded(reference(), "JPEG", quality=95),
    "progressive": lambda: encoded(reference(), "JPEG", quality=95, progressive=True),
    "adobe cmyk": lambda: encoded(reference().convert("CMYK"), "JPEG", quality=95),
    "cmyk tiff": lambda: encoded(reference().convert("CMYK"), "TIFF"),
    "png": lambda: encoded(reference(), "PNG"),
    "palette": lambda: encoded(reference().quantize(16), "PNG"),
    "palette with a hole": lambda: encoded(see_through("P"), "PNG"),
    "rgba": lambda: encoded(see_through("RGBA"), "PNG"),
    "rgba webp": lambda: encoded(see_through("RGBA"), "WEBP", lossless=True),
    "avif": lambda: encoded(reference(), "AVIF", quality=90),
    "bmp": lambda: encoded(reference(), "BMP"),
    "tiff": lambda: encoded(reference(), "TIFF", compression="tiff_lzw"),
    "gif": lambda: encoded(reference(), "GIF"),
    "animated gif": lambda: frames("GIF"),
    "animated webp": lambda: frames("WEBP"),
    "mpo": lambda: encoded(reference(), "MPO", quality=95, save_all=True, append_images=[reference()]),
    "exif 2": lambda: turned(2, Image.Transpose.FLIP_LEFT_RIGHT),
    "exif 3": lambda: turned(3, Image.Transpose.ROTATE_180),
    "exif 4": lambda: turned(4, Image.Transpose.FLIP_TOP_BOTTOM),
    "exif 5": lambda: turned(5, Image.Transpose.TRANSPOSE),
    "exif 6": lambda: turned(6, Image.Transpose.ROTATE_90),
    "exif 7": lambda: turned(7, Image.Transpose.TRANSVERSE),
    "exif 8": lambda: turned(8, Image.Transpose.ROTATE_270),
    "damaged exif": lambda: encoded(reference(), "JPEG", quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    "damaged profile": lambda: encoded(reference(), "PNG", icc_profile=b"no profile"),
    "srgb profile": lambda: encoded(reference(), "PNG", icc_profile=srgb()),
    "profile of another mode": lambda: encoded(reference().convert("CMYK"), "TIFF", icc_profile=odd_profile()),
}


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def odd_profile() -> bytes:
    """sRGB with red and blue changed over, under another name."""
    swapped = srgb().replace(b"rXYZ", b"swap").replace(b"bXYZ", b"rXYZ").replace(b"swap", b"bXYZ")
    return swapped.replace("sRGB".encode("utf-16-be"), "oddy".encode("utf-16-be"))


@pytest.mark.parametrize("kind", SAME)
def test_same_as_reference(kind: str) -> None:
    image = decode_image(SAME[kind]())
    assert image.mode == "RGB"
    assert difference(image, reference()) < 5


def test_profile_is_applied() -> None:
    swapped = reference().split()[::-1]
    for mode in ("RGB", "RGBA"):
        data = encoded(reference().convert(mode), "PNG", icc_profile=odd_profile())
        assert difference(decode_image(data), Image.merge("RGB", swapped)) < 5


def test_deep_grays_keep_their_ramp() -> None:
    ramp = np.tile(np.linspace(0, 1, 256), (16, 1))  # [height, width]
    deep = {
        "I;16": encoded(Image.fromarray((ramp * 65535).astype(np.uint16)), "PNG"),
        "I;16B": encoded(Image.fromarray((ramp * 65535).astype(">u2")), "TIFF"),
        "I": encoded(Image.fromarray((ramp * 65535).astype(np.int32)), "TIFF"),
        "I, signed": encoded(Image.fromarray((ramp * 2e9 - 1e9).astype(np.int32)), "TIFF"),
        "F": encoded(Image.fromarray(ramp.astype(np.float32)), "TIFF"),
        "F, wild": encoded(Image.fromarray((ramp * 3e38).astype(np.float32)), "TIFF"),
    }
    for mode, data in deep.items():
        grays = np.asarray(decode_image(data))[0, :, 0].astype(int)
        assert (np.diff(grays) >= 0).all(), mode
        if "wild" not in mode:
            assert np.abs(grays - np.arange(256)).max() <= 1, mode
    assert decode_image(encoded(Image.new("I", (16, 16), 10**9), "TIFF")).getextrema() == ((0, 0),) * 3
    odd = np.full((16, 16), np.nan, np.float32)
    odd[0, 0] = np.inf
    assert decode_image(encoded(Image.fromarray(odd), "TIFF")).getextrema() == ((0, 0),) * 3


def test_gray_and_bits() -> None:
    assert (
        difference(decode_image(encoded(reference().convert("L"), "JPEG")), reference().convert("L").convert("RGB")) < 5
    )
    assert decode_image(encoded(Image.new("1", (16, 16), 1), "PNG")).getextrema() == ((255, 255),) * 3
    assert decode_image(encoded(Image.new("LA", (16, 16), (0, 0)), "PNG")).getextrema() == ((255, 255),) * 3


REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "html": (b"\n<!doctype html><html><body>403 <svg/></body></html>", "not_an_image"),
    "text": (b"hello", "not_an_image"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "unsupported_format"),
    "ico": (encoded(Image.new("RGB", (9, 9)), "ICO"), "unsupported_format"),
    "ppm": (encoded(Image.new("RGB", (9, 9)), "PPM"), "not_an_image"),
    "one pixel": (encoded(Image.new("RGB", (1, 1)), "PNG"), "too_small"),
    "hairline": (encoded(Image.new("RGB", (2000, 3)), "PNG"), "bad_ratio"),
    "scans": (encoded(Image.new("RGB", (9, 9)), "JPEG") + b"\xff\xda" * 200, "too_many_scans"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str) -> None:
    data, code = REFUSED[kind]
    assert refusal(lambda: decode_image(data)) == code


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png", "rgba webp", "avif", "bmp", "tiff", "gif"])
def test_half_a_file_is_refused(kind: str) -> None:
    data = SAME[kind]()
    assert refusal(lambda: decode_image(data[: len(data) // 2])) == "truncated"


def test_half_a_file_is_never_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        decode_image(SAME["jpeg"]())


@pytest.mark.parametrize("pillows_limit", [None, 10**12, 89_478_485])
def test_bomb_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch, pillows_limit: int | None) -> None:
    bomb = encoded(Image.new("1", (10_000, 6_000)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows_limit)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    assert refusal(lambda: decode_image(bomb)) == "too_many_pixels"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # and Pillow's own refusal is ours
    assert refusal(lambda: decode_image(bomb)) == "too_many_pixels"


def test_limits_are_the_callers() -> None:
    data = SAME["png"]()
    assert refusal(lambda: decode_image(data, ImageLimits(max_bytes=10))) == "too_many_bytes"
    assert refusal(lambda: decode_image(data, ImageLimits(max_pixels=6143))) == "too_many_pixels"
    assert decode_image(data, ImageLimits(max_pixels=6144)).size == (96, 64)
    assert decode_image(REFUSED["one pixel"][0], ImageLimits(min_side=1)).size == (1, 1)


def test_shrinking_keeps_twice_the_size() -> None:
    large = encoded(reference().resize((1600, 1000)), "JPEG", quality=90)
    assert decode_image(large, shrink_to=100).size == (400, 250)
    assert decode_image(large, shrink_to=260).size == (1600, 1000)
    assert decode_image(SAME["exif 6"](), shrink_to=16).size == (48, 32)
    assert decode_image(SAME["png"](), shrink_to=8).size == (96, 64)


def test_refusal_survives_a_process_pool() -> None:
    error = pickle.loads(pickle.dumps(ImageRefused("too_small", "why", "photo")))  # noqa: S301  our own bytes
    assert (error.code, error.message, error.field) == ("too_small", "why", "photo")


def image_or_refusal(data: bytes) -> None:
    with suppress(ImageRefused):
        assert decode_image(data, ImageLimits(max_pixels=100_000)).mode == "RGB"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    image_or_refusal(data)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(SAME)), st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=6)), max_size=6))
def test_any_damage(kind: str, patches: list[tuple[int, bytes]]) -> None:
    data = bytearray(SAME[kind]())
    for at, patch in patches:
        at %= len(data)  # noqa: PLW2901
        data[at : at + 3] = patch  # overwrites, inserts or cuts, as the lengths have it
    image_or_refusal(bytes(data))
