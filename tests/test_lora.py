"""LoRA fine-tuning of CLIP: what it learns, when it is written, and that what is written is what was measured."""

import colorsys
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embed.alignment import lora
from embed.alignment.lora import LoraReport, learn_lora
from embed.catalogue import Catalogue, ingest
from embed.encoders import Device
from embed.encoders.clip import ClipEncoder
from embed.encoders.clip_source import find_clip
from embed.encoders.encoder_options import NO_OPTIONS, EncoderOptions
from embed.errors import BadInput, Missing
from embed.images import ImageSource

CPU = Device("cpu", 1)
OPTIONS = EncoderOptions(preprocess="siglip", activation="quick_gelu")
COLORS = ["red", "orange", "yellow", "lime", "green", "mint", "cyan", "azure", "blue", "violet", "magenta", "pink"]
ITEMS = 120
QUICK = {"learning_rate": 1e-2, "batch": 32, "epochs": 4}
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def on_torch() -> Iterator[None]:
    """Exports to OpenVINO cost seconds, and round to bf16 on some processors."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("not exported in these tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embed.encoders.clip.CpuModel", refuse)
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the model lora-test."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    (folder / "lora-test.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    save_file(open_clip.create_model("lora-test").state_dict(), folder / "base.safetensors")
    return folder / "base.safetensors"


def draw_shop(folder: Path, words: Sequence[int]) -> None:
    """Items of noisy images, the i-th of colour i modulo twelve, with words of the colour `words[i]` modulo twelve."""
    random = np.random.default_rng(0)
    rows = []
    for number, word in enumerate(words):
        color = 255 * np.array(colorsys.hsv_to_rgb(number % 12 / 12, 1, 1))
        noisy = np.clip(color + 30 * random.normal(size=(16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number}.png")
        rows.append({"item_id": str(number), "title": f"{COLORS[word % 12]} shoe", "images": [f"{number}.png"]})
    (folder / "feed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingest(folder / "feed.jsonl", folder / "store")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    draw_shop(folder, range(ITEMS))
    return folder


def learned(weights: Path, shop: Path, folder: Path, progress: Any = None, **settings: Any) -> LoraReport:
    catalogue = Catalogue.current(shop / "store")
    name, products = f"open_clip:lora-test/{weights}", np.arange(len(catalogue))
    images = ImageSource(shop)
    return learn_lora(name, OPTIONS, catalogue, images, products, folder, CPU, progress, **{**QUICK, **settings})


def encoder(weights: Path) -> ClipEncoder:
    return ClipEncoder(f"lora-test/{weights}", CPU, OPTIONS)


@pytest.fixture(scope="module")
def whole(weights: Path, shop: Path, tmp_path_factory: pytest.TempPathFactory) -> LoraReport:
    """A training that nothing came between."""
    return learned(weights, shop, tmp_path_factory.mktemp("whole"))


def test_words_that_tell_encode_images_make_an_encoder_that_finds_them(weights: Path, whole: LoraReport) -> None:
    assert (whole.pairs, whole.refused) == (ITEMS, 0)
    assert 1 <= whole.epochs <= QUICK["epochs"]
    assert whole.of_words is not None
    assert whole.of_words.queries == ITEMS // 5
    assert whole.of_words.better
    assert whole.of_words.after > whole.of_words.before + 0.3
    assert whole.weights is not None
    loaded, before = ClipEncoder(f"local-dir:{whole.weights}", CPU, NO_OPTIONS), encoder(weights)
    assert whole.weights.name == loaded.fingerprint != before.fingerprint
    assert loaded.prepare == before.prepare
    shown = loaded.details["preprocessing"].partition(" (from ")[0]
    assert shown == before.details["preprocessing"].partition(" (from ")[0]
    assert "mean 0.5/0.5/0.5" in shown
    assert loaded.details["activation"] == "quick_gelu"


def test_all_linear_layers_and_the_fused_attention_change_and_nothing_else(weights: Path, whole: LoraReport) -> None:
    from safetensors.torch import load_file

    assert whole.weights is not None
    before, after = load_file(weights), load_file(whole.weights / "open_clip_model.safetensors")
    assert before.keys() == after.keys()
    changed = {name.rpartition("resblocks.0.")[2] for name in before if not before[name].equal(after[name])}
    assert changed == {"attn.in_proj_weight", "mlp.c_fc.weight", "mlp.c_proj.weight", "logit_scale"}


def test_what_is_loaded_gives_the_vectors_of_what_was_trained(
    weights: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(ITEMS)
    trained: list[Any] = []
    check_equal, merge = lora._LoraLearner.check_equal, lora._LoraLearner.merge

    def note(learner: Any) -> None:
        trained.append(learner._vectors(learner._encode_images, learner._pairs.image))
        trained.append(learner._vectors(learner._encode_texts, learner._pairs.text[0]))
        merge(learner)

    def compare(learner: Any, loaded: ClipEncoder, checked: Any) -> None:
        assert len(checked) == ITEMS // 5
        check_equal(learner, loaded, checked)
        images = loaded.encode_images([learner._pairs.images[number] for number in learner._pairs.image])
        texts = loaded.encode_texts([f"{COLORS[row % 12]} shoe" for row in rows]).vectors
        assert min((trained[0] * images).sum(1).min(), (trained[1] * texts).sum(1).min()) > 0.9999
        with pytest.raises(RuntimeError, match="differs from the model"):
            check_equal(learner, encoder(weights), checked)

    monkeypatch.setattr(lora._LoraLearner, "merge", note)
    monkeypatch.setattr(lora._LoraLearner, "check_equal", compare)
    assert learned(weights, shop, tmp_path).weights is not None


def test_items_with_the_same_image_or_words_are_no_negatives(
    weights: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(lora, "_augmented", lambda pixels, _: pixels)
    catalogue, source = Catalogue.current(shop / "store"), ImageSource(shop)
    pairs, _ = lora._collect(catalogue, source, np.arange(ITEMS), encoder(weights), 0, 1)
    pairs.image[1] = pairs.image[0]
    learner = lora._LoraLearner(
        find_clip(f"lora-test/{weights}", OPTIONS),
        pairs,
        np.arange(ITEMS),
        np.arange(1),
        CPU,
        "",
        lora._Settings(0, 2, 8, 0.1),
    )
    rows = np.array([0, 1, 2, 3, 12, 15, 24])
    images = learner._vectors(learner._encode_images, pairs.image[rows])
    texts = learner._vectors(learner._encode_texts, pairs.text[0, rows])
    scores = np.exp(images @ texts.T / 0.07)
    losses = []
    for of in (scores, scores.T):
        for i, row in enumerate(rows):
            others = [
                j
                for j, other in enumerate(rows)
                if j == i or (row % 12 != other % 12 and pairs.image[row] != pairs.image[other])
            ]
            losses.append(-np.log(of[i, i] / of[i, others].sum()))
    assert learner._loss(rows, 0, torch.Generator()).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_images_are_cropped_a_little_and_every_other_one_is_mirrored() -> None:
    import torch

    ramp = torch.arange(20.0).expand(200, 3, 20, 20)  # left to right
    found = lora._augmented(ramp, torch.Generator().manual_seed(0))
    steps = found.diff(dim=3)[:, 0, 10, 5:15].mean(1)
    assert found.shape == ramp.shape
    assert found.diff(dim=2).abs().max() < 1e-4
    assert (steps.abs() > 1 - lora.MAX_CROP - 1e-4).all()
    assert (steps.abs() < 1 + 1e-4).all()
    assert 60 < (steps < 0).sum() < 140


class Killed(Exception):
    pass


def test_a_training_that_was_killed_ends_in_the_same_bytes(
    weights: Path, shop: Path, tmp_path: Path, whole: LoraReport
) -> None:
    steps: list[int] = []

    def kill(done: int, total: int) -> None:
        steps.append(done)
        if done > total // 2:
            raise Killed

    with pytest.raises(Killed):
        learned(weights, shop, tmp_path, kill)
    assert [path.name for path in tmp_path.iterdir()] == ["training"]
    done = len(steps)
    again = learned(weights, shop, tmp_path, lambda done, _: steps.append(done))
    assert steps[done] == done  # the epoch that was under way is gone through again, those before are not
    assert whole.weights is not None
    assert again.weights is not None
    assert (again.epochs, again.of_words) == (whole.epochs, whole.of_words)
    assert {path.name: path.read_bytes() for path in again.weights.iterdir()} == {
        path.name: path.read_bytes() for path in whole.weights.iterdir()
    }
    assert learned(weights, shop, tmp_path, kill).weights == again.weights  # nothing is left to learn


def test_words_that_tell_nothing_encode_images_write_nothing(weights: Path, tmp_path: Path) -> None:
    draw_shop(tmp_path, np.random.default_rng(1).permutation(ITEMS).tolist())
    report = learned(weights, tmp_path, tmp_path / "out")
    assert report.of_words is not None
    assert not report.of_words.better
    assert report.weights is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["training"]
    assert not list((tmp_path / "out").rglob("merged"))


def test_images_that_cannot_be_read_are_counted_and_too_few_products_measure_nothing(
    weights: Path, shop: Path, tmp_path: Path
) -> None:
    shutil.copytree(shop, tmp_path, dirs_exist_ok=True)
    (tmp_path / "0.png").write_bytes(b"<html>")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:90])
    for number in range(2, 72):
        (tmp_path / f"{number}.png").unlink()
    assert learned(weights, tmp_path, tmp_path / "out") == LoraReport(pairs=48, refused=72)
    assert not (tmp_path / "out").exists()
    for number in range(72, ITEMS):  # what over fifty items show is a placeholder
        (tmp_path / f"{number}.png").write_bytes((shop / "72.png").read_bytes())
    for number in range(2, 7):
        (tmp_path / f"{number}.png").write_bytes((shop / "72.png").read_bytes())
    assert learned(weights, tmp_path, tmp_path / "out") == LoraReport(pairs=0, refused=67)


def test_what_cannot_be_fine_tuned_is_refused(
    weights: Path, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = Catalogue.current(shop / "store")

    def ask(name: str) -> LoraReport:
        return learn_lora(name, NO_OPTIONS, catalogue, ImageSource(shop), np.arange(ITEMS), tmp_path, CPU)

    for name in ("bundled", "st:model", f"lora-test/{weights}"):
        with pytest.raises(BadInput, match="use open_clip:MODEL/WEIGHTS"):
            ask(name)
    with pytest.raises(Missing, match=r"weights file .* does not exist"):
        ask("open_clip:lora-test//no/such.safetensors")
    with pytest.raises(BadInput, match="no model"):
        ask("open_clip:no-such-model/openai")
    for setting, value in {"rank": 0, "epochs": 0, "patience": 0, "batch": 1, "learning_rate": 0.0}.items():
        with pytest.raises(BadInput, match=f"{setting} {value}") as caught:
            learned(weights, shop, tmp_path, **{setting: value})
        assert caught.value.field == setting
    with pytest.raises(BadInput, match="leaves open: preprocess"):
        ask(f"open_clip:lora-test/{weights}")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BadInput, match=r"pip install 'vetrina\[lora\]'"):
        ask(f"open_clip:lora-test/{weights}")
    assert not list(tmp_path.iterdir())
