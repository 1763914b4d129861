"""Photos from bytes to a model's input: as open_clip's own preprocessing, on the fast path and on Pillow's."""

import io
from typing import Any, Literal

import numpy as np
import pytest
from helpers.images import drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFilter

from embed.encoders.bundled import BundledImageEncoder
from embed.encoders.device import Device
from embed.images import decode_image, decode_pixels
from embed.images.decode import ImageRefused
from embed.images.preprocessing import Preprocessing

SIDES = st.integers(9, 90)
Mode = Literal["shortest", "longest", "squash"]


@settings(deadline=None, max_examples=150)
@given(
    size=st.tuples(SIDES, SIDES),
    height=st.integers(8, 48),
    width=st.none() | st.integers(8, 48),
    mode=st.sampled_from(["shortest", "longest", "squash"]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    seed=st.integers(0, 9),
)
def test_photos_are_prepared_as_by_open_clip(
    size: tuple[int, int], height: int, width: int | None, mode: Mode, interpolation: Any, seed: int
) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    width = height if width is None else width
    if mode == "shortest" and height != width:
        interpolation = "bicubic"  # open_clip scales to no square bicubically, whatever it is told
    config = PreprocessCfg(size=(height, width), resize_mode=mode, interpolation=interpolation, fill_color=7)
    *steps, _, _, _ = image_transform_v2(config, is_train=False).transforms  # to RGB, to a tensor, normalized
    image = drawn(seed, size)
    right = image
    for step in steps:
        right = step(right)
    prepared = Preprocessing(height, width, mode, interpolation, fill=7)(np.asarray(image))
    assert prepared.shape == (height, width, 3)
    assert prepared.flags.c_contiguous
    off = np.abs(prepared.astype(int) - np.asarray(right, int))
    # Bicubic interpolation overshoots; where it is cut off depends on which side Pillow scales first.
    assert off.max() <= (2 if interpolation == "bilinear" else 32)
    assert off.mean() <= 0.6


def photo(size: tuple[int, int] = (600, 440)) -> Image.Image:
    """A picture with soft edges and grain, as of a camera."""
    soft = drawn(5, size).filter(ImageFilter.GaussianBlur(3))
    grain = np.random.default_rng(0).normal(0, 4, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, format_: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format_, **options)
    return out.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(photo(), exif=exif, quality=90)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
PHOTOS = {
    "4:2:0": saved(photo(), subsampling=2, quality=85),
    "4:4:4": saved(photo(), subsampling=0, quality=95),
    "progressive": saved(photo(), progressive=True),
    "gray": saved(photo().convert("L")),
    "1500 pixels": saved(photo((1500, 1100)), quality=90),
    "1500 pixels tall": saved(photo((700, 1500)), quality=90),
    "small": saved(photo((90, 64))),
    "cmyk": saved(photo().convert("CMYK")),
    "sRGB profile": saved(photo(), icc_profile=SRGB),
    "useless profile": saved(photo(), icc_profile=LAB),
    "png": saved(photo(), "PNG"),
    "png with alpha": saved(photo().convert("RGBA"), "PNG"),
    **{f"turned {number}": turned(number) for number in range(1, 9)},
}


@pytest.fixture(scope="module")
def encoder() -> BundledImageEncoder:
    return BundledImageEncoder(Device("cpu", 1))


@pytest.mark.parametrize("name", PHOTOS)
def test_the_fast_path_gives_what_pillow_gives(name: str, encoder: BundledImageEncoder) -> None:
    data = PHOTOS[name]
    whole, right = decode_pixels(data), np.asarray(decode_image(data))
    assert whole.shape == right.shape
    assert whole.flags.writeable
    assert np.abs(whole.astype(int) - right).mean() < 0.2  # the same decoder, perhaps of another version
    shrunk = decode_pixels(data, shrink_to=encoder.shrink_to)
    assert shrunk.shape[0] <= right.shape[0]
    assert min(shrunk.shape[:2]) >= min(2 * encoder.shrink_to, *right.shape[:2])
    size = encoder.prepare._scaled_size(*right.shape[:2])[::-1]
    left, top = (round((length - 224) / 2) for length in size)
    reference = Image.fromarray(right).resize(size, Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
    vectors = encoder.encode_images([encoder.prepare(shrunk), np.asarray(reference)])
    assert vectors[0] @ vectors[1] >= 0.999


def test_the_fast_path_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embed.images.decode._load", lambda _: pytest.fail("Pillow decodes"))
    for name, data in PHOTOS.items():
        if name not in ("cmyk", "png", "png with alpha"):
            decode_pixels(data)


@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.999])
def test_half_a_photo_is_refused_on_both_paths(part: float) -> None:
    data = PHOTOS["4:2:0"][: int(part * len(PHOTOS["4:2:0"]))]
    for decode in (decode_image, decode_pixels):
        with pytest.raises(ImageRefused) as refused:
            decode(data, shrink_to=100)
        assert refused.value.code == "truncated"


@settings(deadline=None, max_examples=150)
@given(at=st.integers(0, 20_000), value=st.integers(0, 255), shrink_to=st.none() | st.just(100))
def test_damaged_photos_are_refused_or_decoded_alike(at: int, value: int, shrink_to: int | None) -> None:
    data = bytearray(PHOTOS["4:2:0"])
    data[at % len(data)] = value
    try:
        right = np.asarray(decode_image(bytes(data)), int)
    except ImageRefused as refused:
        with pytest.raises(ImageRefused, match=str(refused)[:20]):
            decode_pixels(bytes(data), shrink_to=shrink_to)
        return
    pixels = decode_pixels(bytes(data), shrink_to=shrink_to)
    if shrink_to is None:
        assert np.abs(pixels - right).mean() < 1
