"""Encoders: each equals the model it stands for, counts what it cuts, and refuses what is not its own."""

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.images import drawn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from embed.encoders import (
    ImageEncoder,
    TextEncoder,
    bundled,
    choose_device,
    cpu_model,
    load_image_encoder,
    load_text_encoder,
)
from embed.encoders.agreement import measure_agreement
from embed.encoders.bf16_weights import round_kernels
from embed.encoders.bundled import BundledImageEncoder, BundledTextEncoder
from embed.encoders.cpu_model import CpuModel, Disagreement
from embed.encoders.device import Device
from embed.encoders.encoder import encode_in_batches, make_fingerprint, unit_rows, weights_hash
from embed.errors import BadInput, Damaged

if TYPE_CHECKING:
    from torch.nn import Module

CPU = Device("cpu", 2)
KEYWORDS = ["red", "blue", "green", "shoe", "shirt", "lamp", "for", "men", "women", "with", "the", "warm", "light"]
TEXTS = [
    "A red shoe",
    "",
    "Leather boots, lined, for winter; with a zip and a strong sole",
    "größe 👟 商品 שלום",
    "A red shoe",
    "lamp " * 400,
]


def cosines(one: Any, other: Any) -> Any:
    return (unit_rows(one) * unit_rows(other)).sum(1)


def assert_unit(vectors: Any, dim: int) -> None:
    assert (vectors.dtype, vectors.shape[1]) == (np.float32, dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ bundled images


@pytest.fixture(scope="module")
def image_encoder() -> BundledImageEncoder:
    return BundledImageEncoder(CPU)


def test_bundled_images_equal_the_eager_model(image_encoder: BundledImageEncoder) -> None:
    import torch

    assert isinstance(image_encoder, ImageEncoder)
    prepared = [image_encoder.prepare(np.asarray(drawn(seed))) for seed in range(5)]
    vectors = image_encoder.encode_images(prepared)
    assert_unit(vectors, image_encoder.dim)
    with torch.inference_mode():
        eager = bundled._image_module().eval()(torch.from_numpy(np.stack(prepared))).numpy()
    assert cosines(vectors, eager).min() > 0.998  # bf16, where the processor has it
    assert (unit_rows(vectors[:1]) @ vectors[1:].T).max() < 0.95  # the model tells them apart
    np.testing.assert_allclose(image_encoder.encode_images(prepared[3:4]), vectors[3:4], atol=1e-4)
    assert image_encoder.encode_images([]).shape == (0, image_encoder.dim)


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (280, 280), (281, 1000), (50, 40), (1500, 1100)])
def test_images_are_prepared_as_by_resizing_all_and_cropping(
    image_encoder: BundledImageEncoder, size: tuple[int, int]
) -> None:
    image = drawn(7, size)
    scale = 280 / min(size)
    whole = image.resize((max(280, int(size[0] * scale)), max(280, int(size[1] * scale))), Image.Resampling.BICUBIC)
    left, top = round((whole.width - 224) / 2), round((whole.height - 224) / 2)
    cropped = whole.crop((left, top, left + 224, top + 224))
    prepared = image_encoder.prepare(np.asarray(image))
    assert (prepared.shape, prepared.dtype) == ((224, 224, 3), np.uint8)
    assert np.abs(prepared.astype(int) - np.asarray(cropped, int)).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000), (223, 4096)])
def test_images_of_any_shape_are_prepared(image_encoder: BundledImageEncoder, size: tuple[int, int]) -> None:
    vectors = image_encoder.encode_images([image_encoder.prepare(np.asarray(drawn(1, size)))])
    assert_unit(vectors, image_encoder.dim)


# ------------------------------------------------------------------------------------------------------- bundled texts


@pytest.fixture(scope="module")
def text_encoder() -> BundledTextEncoder:
    return BundledTextEncoder(CPU)


def test_bundled_texts_equal_sentence_transformers(text_encoder: BundledTextEncoder) -> None:
    assert isinstance(text_encoder, TextEncoder)
    other = load_text_encoder(f"st:{bundled._text_folder()}", CPU)
    encoded, right = text_encoder.encode_texts(TEXTS), other.encode_texts(TEXTS)
    assert_unit(encoded.vectors, text_encoder.dim)
    assert encoded.truncated == right.truncated == 1
    assert cosines(encoded.vectors, right.vectors).min() > 1 - 1e-3
    np.testing.assert_array_equal(encoded.vectors[0], encoded.vectors[4])


def test_bundled_texts_do_not_depend_on_their_batch(text_encoder: BundledTextEncoder) -> None:
    probability = random.Random(0)
    texts = [" ".join(probability.choices(KEYWORDS, k=probability.randrange(1, 30))) for _ in range(50)]
    vectors = text_encoder.encode_texts(texts).vectors
    order = probability.sample(range(50), 50)
    np.testing.assert_allclose(
        text_encoder.encode_texts([texts[at] for at in order]).vectors, vectors[order], atol=1e-4
    )
    for at in (0, 17, 49):
        np.testing.assert_allclose(text_encoder.encode_texts([texts[at]]).vectors[0], vectors[at], atol=1e-4)


def test_only_texts_that_lose_something_count_as_truncated(text_encoder: BundledTextEncoder) -> None:
    texts = ["a " * 254, "a " * 255, "a " * 256 * 40]  # with both marks 256, 257, ...
    encoded = text_encoder.encode_texts(texts)
    assert encoded.truncated == 2
    np.testing.assert_allclose(encoded.vectors[1:], encoded.vectors[[0, 0]], atol=1e-4)


def test_no_texts(text_encoder: BundledTextEncoder) -> None:
    empty = text_encoder.encode_texts([])
    assert (empty.vectors.shape, empty.truncated) == ((0, 384), 0)


# ---------------------------------------------------------------------------------------------------- weights and cache


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "IMAGE_WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(Damaged, match="reinstall its package"):
        bundled._image_module()
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(bundled, "_text_folder", lambda: tmp_path)
    with pytest.raises(Damaged, match=r"model\.safetensors has SHA-256"):
        bundled._text_module()


class Exports:
    """Makes a tiny model and counts how often it is asked to."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
        import torch

        class Tiny(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return images * 2 + 1

        self.count += 1
        return Tiny(), {"images": torch.eye(16, 3)}, {"images": {0: torch.export.Dim("n")}}


def test_a_damaged_export_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VETRINA_CACHE", str(tmp_path / "cache"))
    make = Exports()
    images = np.ones((5, 3), np.float32)
    vectors = CpuModel("tiny", 1, make)(images=images)
    np.testing.assert_array_equal(vectors, images * 3)
    CpuModel("tiny", 1, make)
    assert make.count == 1
    exported = tmp_path / "cache" / "tiny.onnx"
    whole = exported.read_bytes()
    exported.write_bytes(whole[:40] + b"!" + whole[41:])
    np.testing.assert_array_equal(CpuModel("tiny", 1, make)(images=images), vectors)
    assert make.count == 2
    assert sorted(path.name for path in exported.parent.iterdir()) == ["tiny.json", "tiny.onnx"]


def test_an_export_that_leaves_its_model_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("VETRINA_CACHE", str(tmp_path / "cache"))

    class Untraceable(torch.nn.Module):
        """What is traced is not what runs."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.roll(1, 1) if torch.compiler.is_exporting() else images

    made = []

    def make() -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
        made.append(1)
        return Untraceable(), {"images": torch.eye(16, 16)}, {"images": {0: torch.export.Dim("n")}}

    for versions in ("these", "these", "others"):
        monkeypatch.setattr(cpu_model, "_versions", lambda versions=versions: [versions])
        with pytest.raises(Disagreement, match=r"gives other vectors \(agreement "):
            CpuModel("untraceable", 1, make)
    assert len(made) == 2  # a failure is remembered
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["untraceable.json"]


def test_agreement_sees_what_a_plain_cosine_hides() -> None:
    random = np.random.default_rng(0)
    reference = random.normal(size=(16, 8)) + 100  # all nearly one way
    other = reference + random.normal(size=(16, 8))
    assert cosines(reference, other).min() > 0.999
    assert measure_agreement(reference, reference * 3) == pytest.approx(1)
    assert measure_agreement(other, reference) < 0.9


@given(hnp.arrays(np.float32, (3, 2, 3, 3), elements=st.floats(-2, 2, width=32, allow_subnormal=False)))
def test_kernels_are_rounded_to_bf16_with_their_sums(weights: Any) -> None:
    rounded = round_kernels(weights)
    assert not (rounded.view(np.uint32) & 0xFFFF).any()  # the eight significant bits of bf16
    off = np.abs(rounded.astype(float).sum((2, 3)) - weights.astype(float).sum((2, 3)))
    smallest, largest = np.abs(weights).min((2, 3)), np.abs(weights).max((2, 3))
    assert (off <= (smallest + largest / 256) / 256 + 1e-6).all()  # rounded one by one: up to 9 * largest / 512
    assert (np.abs(rounded - weights) <= largest[..., None, None] / 100).all()


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["", "clip", "bundled:", "hf:model", "open-clip:ViT-B-32/openai"])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="is unknown: use bundled"):
        load_image_encoder(name, CPU)
    with pytest.raises(BadInput, match="is unknown: use bundled"):
        load_text_encoder(name, CPU)


@pytest.mark.parametrize("name", ["st", "st:", "open_clip", "open_clip:"])
def test_names_without_a_model_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match="model"):
        load_text_encoder(name, CPU)


def test_devices() -> None:
    import torch

    assert choose_device("cpu", 3) == Device("cpu", 3)
    assert choose_device("cpu").threads >= 1
    with pytest.raises(BadInput, match="'tpu' is unknown"):
        choose_device("tpu")
    if not torch.cuda.is_available():
        assert choose_device("auto").kind == "cpu"
        with pytest.raises(BadInput, match="torch finds no CUDA GPU"):
            choose_device("cuda")


# ----------------------------------------------------------------------------------------------------- shared helpers


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@pytest.mark.parametrize("fits", [1, 3, 8])
def test_batches_are_halved_when_memory_runs_out(fits: int) -> None:
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    sizes: list[int] = []

    def run(batch: Sequence[Any]) -> Any:
        if len(batch) > fits:
            raise OutOfMemoryError
        sizes.append(len(batch))
        return np.stack(batch) + 1

    np.testing.assert_array_equal(encode_in_batches(list(rows), 8, 2, run), rows + 1)
    assert max(sizes) == {1: 1, 3: 2, 8: 8}[fits]


def test_vectors_that_are_not_finite_get_nowhere() -> None:
    with pytest.raises(Damaged, match="not finite numbers"):
        encode_in_batches([1.0, np.nan], 8, 1, lambda batch: np.array(batch, np.float32)[:, None])


def test_errors_that_smaller_batches_do_not_cure_get_out() -> None:
    def run(batch: Sequence[Any]) -> Any:
        raise (OutOfMemoryError if len(batch) == 1 else RuntimeError)("the card fell off")

    for rows in (1, 4):
        with pytest.raises(RuntimeError, match="fell off"):
            encode_in_batches([0] * rows, 8, 2, run)


def test_fingerprints_and_hashes_follow_what_they_stand_for() -> None:
    import torch

    assert make_fingerprint(a="1", b="2") == make_fingerprint(b="2", a="1") != make_fingerprint(a="2", b="1")
    tensors = {"w": torch.arange(4.0), "n": torch.tensor(3)}
    same = {"n": torch.tensor(3), "w": torch.arange(8.0)[::2] / 2}
    assert weights_hash(tensors.items()) == weights_hash(same.items())
    for other in (tensors["w"].reshape(2, 2), tensors["w"].double(), tensors["w"].bfloat16(), tensors["w"] + 1):
        assert weights_hash({**tensors, "w": other}.items()) != weights_hash(tensors.items())


def test_unit_rows_leave_zero_rows_zero() -> None:
    np.testing.assert_array_equal(unit_rows(np.array([[3.0, 4.0], [0, 0]])), np.array([[0.6, 0.8], [0, 0]], np.float32))


def test_several_threads_may_be_the_first_to_encode() -> None:
    together = """
import faulthandler, sys, threading
import numpy as np
from embed.encoders import bundled, choose_device
faulthandler.dump_traceback_later(120, exit=True)
encoder = bundled.BundledTextEncoder(choose_device("cpu"))
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(4)
def encode():
    barrier.wait()
    encoder.encode_texts(["red jacket"])
threads = [threading.Thread(target=encode) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    for _ in range(3):
        subprocess.run([sys.executable, "-c", together], check=True)
