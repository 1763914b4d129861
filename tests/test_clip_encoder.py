"""open_clip by its own names: each model is prepared, tokenized and run as open_clip does, and nothing is guessed."""

import json
import pickle
import shutil
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.clip_models import HALVES, Family, families, save_model, save_tokenizer
from helpers.images import drawn

from embed.encoders import ImageEncoder, TextEncoder, load_image_encoder, load_text_encoder
from embed.encoders.agreement import EXAMPLE_TEXTS, MIN_EXACT, MIN_SERVED, measure_agreement
from embed.encoders.clip import ClipEncoder
from embed.encoders.clip_model import load_clip, save_clip
from embed.encoders.clip_source import PREPROCESSING, PRESETS, find_clip
from embed.encoders.cpu_model import CpuModel, Disagreement
from embed.encoders.device import Device
from embed.encoders.encoder import make_fingerprint, weights_hash
from embed.encoders.encoder_options import NO_OPTIONS, EncoderOptions
from embed.errors import BadInput, Damaged, Missing

CPU = Device("cpu", 2)
TEXTS = list(EXAMPLE_TEXTS)
PHOTOS = [drawn(seed, (240 + 20 * (seed % 5), 200)) for seed in range(16)]
REVISION = "0123456789abcdef0123456789abcdef01234567"
FAMILIES = families()
EXPORTED = {  # the towers that are exported here, as each costs seconds; tests/bench/encoders.py exports all
    "ViT": ("image", "text"),
    "ResNet": (),
    "ConvNeXt": ("image",),
    "SigLIP": (),
    "SigLIP2": ("image",),
    "MobileCLIP": ("image",),
    "PE": ("image",),
    "EVA": (),
    "CoCa": ("image",),
    "RoBERTa": ("text",),
    "mT5": (),  # cannot be exported
    "CLIPA": ("text",),
}
OF_IMAGES = {"mean": (0.3, 0.4, 0.6), "std": (0.4, 0.2, 0.3)}


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks a hub, or leaves exports in the user's cache; most run in torch, because exports cost seconds."""

    def refuse(*_: Any) -> None:
        raise Disagreement("not exported in this test")

    monkeypatch.setenv("VETRINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("embed.encoders.clip.CpuModel", refuse)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`models("SigLIP")` is a folder with config, weights and tokenizer."""
    parent = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        if not (parent / name).exists():
            save_model(FAMILIES[name], parent / name)
        return parent / name

    return folder


@pytest.fixture
def siglip(models: Callable[[str], Path], tmp_path: Path) -> Path:
    """A SigLIP model of one's own, to change."""
    shutil.copytree(models("SigLIP"), tmp_path / "siglip")
    return tmp_path / "siglip"


@pytest.fixture
def named(models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`named("SigLIP")` adds the architecture to open_clip's list, with tags, and returns its name."""
    import open_clip

    monkeypatch.setattr("open_clip.factory._MODEL_CONFIG_PATHS", [])
    monkeypatch.setattr("open_clip.factory._MODEL_CONFIGS", {})

    def add(family: str, **tags: dict[str, Any]) -> str:
        config = json.loads((models(family) / "open_clip_config.json").read_text())["model_cfg"]
        if "hf_tokenizer_name" in config["text_cfg"]:
            config["text_cfg"]["hf_tokenizer_name"] = str(models(family))
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / f"small-{family}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / "configs")
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, f"small-{family}", tags)
        return f"small-{family}"

    return add


def load(name: str | Path, **options: Any) -> ClipEncoder:
    spec = f"local-dir:{name}" if isinstance(name, Path) else name
    encoder = load_image_encoder(f"open_clip:{spec}", CPU, EncoderOptions(**options))
    assert isinstance(encoder, ClipEncoder)
    return encoder


def vectors(encoder: ClipEncoder) -> list[Any]:
    prepare = pickle.loads(pickle.dumps(encoder.prepare))  # noqa: S301  as for a process that reads images
    prepared = [prepare(np.asarray(photo)) for photo in PHOTOS]
    return [encoder.encode_images(prepared), encoder.encode_texts(TEXTS).vectors]


def agreement(encoder: ClipEncoder, reference: list[Any]) -> list[float]:
    """The agreement of photos and of texts."""
    return [measure_agreement(*pair) for pair in zip(vectors(encoder), reference, strict=True)]


def of_the_library(name: str, **arguments: Any) -> list[Any]:
    """The vectors of photos and texts by open_clip's own pipeline."""
    import open_clip
    import torch

    model, _, transform = open_clip.create_model_and_transforms(name, **arguments)
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([transform(photo) for photo in PHOTOS])).numpy()
        return [images, model.encode_text(open_clip.get_tokenizer(name)(TEXTS)).numpy()]


def set_config(folder: Path, part: str, **values: Any) -> None:
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content[part] |= values
    path.write_text(json.dumps(content))


# ----------------------------------------------------------------------------------------------------------- families


def wrong(family: Family) -> dict[str, dict[str, Any]]:
    """Options that contradict what the weights of a family were made with."""
    how = family.preprocessing
    choices: dict[str, dict[str, Any]] = {
        **{field: {field: value} for field, value in OF_IMAGES.items()},
        "resize_mode": {"resize_mode": "squash" if how["resize_mode"] == "shortest" else "shortest"},
    }
    if "act_kwargs" not in family.text:  # which QuickGELU does not take
        choices["activation"] = {"activation": "gelu" if family.more.get("quick_gelu") else "quick_gelu"}
    return choices


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_gives_the_vectors_of_open_clip_and_nothing_else_does(
    name: str, models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, reference = FAMILIES[name], of_the_library(f"local-dir:{models(name)}")
    exact = load(models(name))
    assert exact.details["runs in"] == "images: torch in f32; texts: torch in f32"
    assert min(agreement(exact, reference)) >= MIN_EXACT
    for options in wrong(family).values():
        other = load(models(name), **options)
        assert min(agreement(other, reference)) < MIN_EXACT, options
        assert other.fingerprint != exact.fingerprint
    if EXPORTED[name]:
        export_only(EXPORTED[name], monkeypatch)
        served = load(models(name))
        assert min(agreement(served, reference)) >= MIN_SERVED
        assert served.details["runs in"].count("OpenVINO") == len(EXPORTED[name])
        assert served.fingerprint == exact.fingerprint


def export_only(towers: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def make(key: str, *arguments: Any) -> CpuModel:
        if key.split("-")[1] not in towers:
            raise Disagreement("its ONNX export gives other vectors")
        return CpuModel(key, *arguments)

    monkeypatch.setattr("embed.encoders.clip.CpuModel", make)


def test_a_tower_whose_export_gives_other_vectors_runs_in_torch_alone(
    models: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    export_only(["text"], monkeypatch)
    encoder = load(models("ViT"))
    assert encoder.details["runs in"].startswith("images: torch in f32; texts: OpenVINO in ")
    assert "the image tower of open_clip:local-dir:" in caplog.text
    images, texts = agreement(encoder, of_the_library(f"local-dir:{models('ViT')}"))
    assert images >= MIN_EXACT
    assert texts >= MIN_SERVED


def test_an_encoder_takes_photos_and_texts(models: Callable[[str], Path]) -> None:
    encoder = load(models("ViT"))
    assert isinstance(encoder, ImageEncoder)
    assert isinstance(encoder, TextEncoder)
    assert (encoder.dim, encoder.shrink_to, encoder.name) == (32, 64, f"open_clip:local-dir:{models('ViT')}")
    for rows in vectors(encoder):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert encoder.encode_images([]).shape == encoder.encode_texts([]).vectors.shape == (0, 32)
    assert encoder.encode_texts(["lamp " * 75, "lamp " * 76]).truncated == 1


def test_models_with_a_tokenizer_of_transformers_count_what_they_cut(models: Callable[[str], Path]) -> None:
    texts = ["red shoe", "red " * 18, "red " * 19, "red, " * 18]  # commas are removed before
    assert load(models("SigLIP")).encode_texts(texts).truncated == 1


# --------------------------------------------------------------------------------------------- one model, by any name


def test_a_tag_a_file_a_folder_and_the_hub_are_one_space(
    siglip: Path, named: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = siglip / "open_clip_model.safetensors"
    alone = tmp_path / "elsewhere"
    alone.mkdir()
    shutil.copy(weights, alone / "weights.safetensors")
    snapshot = tmp_path / "hub" / "models--shop--siglip" / "snapshots" / REVISION
    shutil.copytree(siglip, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(REVISION)
    tag = {**HALVES, "interpolation": "bicubic", "resize_mode": "squash", "file": str(weights)}
    model = named("SigLIP", own=tag)
    names = (
        f"{model}/own",
        f"{model}/{alone}/weights.safetensors",  # with an option
        f"{model}/{weights}",  # with a config beside it
        f"local-dir:{siglip}",
        "hf-hub:shop/siglip",
        f"hf-hub:shop/siglip@{REVISION}",
    )
    encoders = [load(name, **({"preprocess": "siglip"} if "elsewhere" in name else {})) for name in names]
    for encoder in encoders[1:]:
        for rows, first in zip(vectors(encoder), vectors(encoders[0]), strict=True):
            np.testing.assert_array_equal(rows, first)
    assert len({encoder.fingerprint for encoder in encoders}) == 1
    assert min(agreement(encoders[0], of_the_library(f"local-dir:{siglip}"))) >= MIN_EXACT
    with pytest.raises(Missing, match=r"run `hf download shop/siglip --local-dir FOLDER` where there is one"):
        load("hf-hub:shop/siglip@other")
    with pytest.raises(BadInput, match="hf-hub:ORG/NAME@revision"):
        load("hf-hub:no/such/name")


def test_the_fingerprint_follows_all_that_changes_a_vector(siglip: Path, models: Callable[[str], Path]) -> None:
    before = load(siglip).fingerprint
    save_model(FAMILIES["SigLIP"], other := siglip.parent / "other", seed=1)
    found = {before, load(other).fingerprint}
    changes: list[Callable[[], None]] = [
        lambda: set_config(siglip, "preprocess_cfg", mean=[0.5, 0.5, 0.4]),
        lambda: set_config(siglip, "preprocess_cfg", std=[0.5, 0.5, 0.4]),
        lambda: set_config(siglip, "preprocess_cfg", resize_mode="shortest"),
        lambda: set_config(siglip, "preprocess_cfg", interpolation="bilinear"),
        lambda: set_config(siglip, "model_cfg", quick_gelu=True),
        lambda: save_tokenizer(siglip, ["red", "blue"]),
    ]
    for number, change in enumerate(changes, 3):
        change()
        found.add(load(siglip).fingerprint)
        assert len(found) == number
    text = json.loads((siglip / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    set_config(siglip, "model_cfg", text_cfg=text | {"tokenizer_kwargs": {"clean": "lower"}})
    found.add(load(siglip).fingerprint)
    set_config(siglip, "model_cfg", text_cfg=text | {"context_length": 12})
    found.add(load(siglip).fingerprint)
    assert len(found) == 10
    assert load(models("RoBERTa")).fingerprint == load(models("RoBERTa")).fingerprint


def test_options_replace_what_the_weights_say_and_are_shown(siglip: Path) -> None:
    plain, other = load(siglip), load(siglip, preprocess="openai", std=(0.3, 0.3, 0.3))
    assert "squash to 64 x 64, bicubic, mean 0.5/0.5/0.5, std 0.5/0.5/0.5" in plain.details["preprocessing"]
    assert f"(from {siglip}/open_clip_config.json)" in plain.details["preprocessing"]
    assert "shortest to 64 x 64, bicubic, mean 0.4815/0.4578/0.4082, std 0.3/" in other.details["preprocessing"]
    assert "(from the options and " in other.details["preprocessing"]
    assert plain.details["tokenizer"] == f"{siglip}, 20 tokens"
    assert plain.details["activation"] == "gelu"


def test_a_written_folder_is_complete(models: Callable[[str], Path], tmp_path: Path) -> None:
    for name in ("SigLIP", "RoBERTa", "ViT"):
        source = find_clip(f"local-dir:{models(name)}", EncoderOptions(mean=(0.1, 0.2, 0.3)))
        save_clip(load_clip(source), source, tmp_path / name)
        before, after = load(models(name), mean=(0.1, 0.2, 0.3)), load(tmp_path / name)
        assert after.fingerprint == before.fingerprint
        for rows, first in zip(vectors(after), vectors(before), strict=True):
            np.testing.assert_array_equal(rows, first)


# -------------------------------------------------------------------------------------------------- what is left open


def test_a_siglip2_file_without_a_config_is_refused_with_the_lines_to_write(
    models: Callable[[str], Path], named: Callable[..., str], tmp_path: Path
) -> None:
    shutil.copy(models("SigLIP2") / "open_clip_model.safetensors", tmp_path / "siglip2.safetensors")
    name = f"open_clip:{named('SigLIP2')}/{tmp_path}/siglip2.safetensors"
    with pytest.raises(BadInput, match="leaves open: preprocess ") as caught:
        load_image_encoder(name, CPU)
    lines = caught.value.message.partition("\n")[2]
    assert lines == f'[encoders."{name}"]\npreprocess = "openai"  # or ' + ", ".join(map(json.dumps, list(PRESETS)[1:]))
    written = tomllib.loads(lines.replace('"openai"', '"siglip"'))["encoders"][name]
    encoder = load_image_encoder(name, CPU, EncoderOptions(**written))
    assert encoder.fingerprint == load(models("SigLIP2")).fingerprint
    with pytest.raises(BadInput, match="leaves open: preprocess "):  # not all of it is said
        load_image_encoder(name, CPU, EncoderOptions(**OF_IMAGES))


def test_a_file_is_prepared_as_all_tags_of_its_model_say_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    (weights := tmp_path / "weights.safetensors").touch()
    refused = {}
    for model in open_clip.list_models():
        tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
        try:
            source = find_clip(f"{model}/{weights}", NO_OPTIONS)
        except BadInput as error:
            refused[model] = error.message
            continue
        assert tags
        for tag in tags:
            assert source.preprocessing == {field: tag[field] for field in PREPROCESSING}
            assert source.config["quick_gelu"] == tag.get("quick_gelu", False)
    assert {"ViT-B-32", "ViT-L-14", "ViT-H-14-quickgelu", "ViT-S-32", "roberta-ViT-B-32"} <= refused.keys()
    assert {
        "ViT-B-16-SigLIP",
        "ViT-B-16-SigLIP2-512",
        "MobileCLIP2-S0",
        "PE-Core-B-16",
        "ViT-L-14-336",
    } <= refused.keys()
    assert len(refused) < 100  # of 144
    for model, message in refused.items():
        assert tomllib.loads(message.partition("\n")[2])["encoders"][f"open_clip:{model}/{weights}"]
    with pytest.raises(BadInput) as caught:
        find_clip(f"ViT-B-32/{weights}", NO_OPTIONS)
    assert caught.value.message.endswith('\nactivation = "quick_gelu"  # or "gelu"')
    assert find_clip(f"ViT-B-32/{weights}", EncoderOptions(activation="gelu")).config["quick_gelu"] is False
    assert refused["ViT-L-14-336"].endswith('\nactivation = "quick_gelu"  # or "gelu"')
    assert refused["ViT-B-16-SigLIP2"].partition("\n")[2].splitlines()[1].startswith('preprocess = "siglip"  # or ')
    assert refused["PE-Core-B-16"].partition("\n")[2].splitlines()[1].startswith('preprocess = "pe"  # or ')


def test_tags_say_how_their_weights_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("open_clip.download_pretrained", lambda _: str(tmp_path / "weights"))
    for name, activation in {
        "ViT-B-32/openai": True,
        "ViT-B-32-quickgelu/openai": True,
        "ViT-B-32/laion2b_s34b_b79k": False,
        "roberta-ViT-B-32/laion2b_s12b_b32k": True,  # by its architecture
    }.items():
        assert find_clip(name, NO_OPTIONS).config["quick_gelu"] is activation
    assert find_clip("ViT-L-14/laion2b_s32b_b82k", NO_OPTIONS).preprocessing["mean"] == (0.5, 0.5, 0.5)
    assert find_clip("ViT-B-16-SigLIP2/webli", NO_OPTIONS).preprocessing["resize_mode"] == "squash"
    with pytest.raises(BadInput, match=r"no weights 'laion2b_s34b_b79k' for ViT-B-32-quickgelu: use one of openai"):
        find_clip("ViT-B-32-quickgelu/laion2b_s34b_b79k", NO_OPTIONS)


def test_presets_are_those_of_the_table_of_open_clip() -> None:
    from open_clip import pretrained

    makers = {"openai": "p", "siglip": "slp", "clipa": "ap", "mobileclip": "mc", "mobileclip2": "mc2", "pe": "pe"}
    for name, maker in makers.items():
        entry = getattr(pretrained, f"_{maker}cfg")()
        assert PRESETS[name] == {field: entry[field] for field in PREPROCESSING}


def test_without_options_a_model_encodes_as_version_0_1_did(
    models: Callable[[str], Path], named: Callable[..., str], tmp_path: Path
) -> None:
    import open_clip

    weights = models("ViT") / "open_clip_model.safetensors"
    name = named("ViT")
    old = load_image_encoder(f"open_clip:{name}/{weights}", CPU, None)
    assert isinstance(old, ClipEncoder)
    model, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(weights))
    parts = {"model": name, "preprocessing": f"{transform};tokens=77"}
    assert old.fingerprint == make_fingerprint(weights=weights_hash(model.state_dict().items()), **parts)
    assert old.fingerprint != load(models("ViT")).fingerprint
    assert min(agreement(old, of_the_library(name, pretrained=str(weights)))) >= MIN_EXACT
    for spec in (f"local-dir:{models('ViT')}", "hf-hub:shop/model", "no-such-model/openai", f"{name}/openai"):
        with pytest.raises(BadInput):
            load_image_encoder(f"open_clip:{spec}", CPU, None)


# ------------------------------------------------------------------------------------------------- missing and damaged


@pytest.mark.parametrize(
    ("field", "value"),
    [("fill_color", "red"), ("fill_color", 300), ("fill_color", True), ("std", [0, 0, 0]), ("mean", [123.7, 116, 104])],
)
def test_preprocessing_that_cannot_be_is_refused(siglip: Path, field: str, value: Any) -> None:
    set_config(siglip, "preprocess_cfg", **{field: value})
    with pytest.raises(Damaged, match=rf"open_clip_config.json: {field} .* is invalid"):
        load(siglip)


def test_a_tokenizer_without_its_words_is_refused(siglip: Path) -> None:
    for path in (*siglip.glob("tokenizer.json"), *siglip.glob("vocab.txt")):
        path.unlink()
    with pytest.raises(Damaged, match=r"it has no words: copy its vocabulary too, such as tokenizer\.json"):
        load(siglip)


def test_a_file_beside_the_configuration_of_another_model_is_refused(siglip: Path) -> None:
    (weights,) = siglip.glob("*.safetensors")
    with pytest.raises(BadInput, match=rf"is not a RN50: .* has embed_dim .*Write open_clip:local-dir:{siglip}"):
        load(f"RN50/{weights}")


def test_what_the_hub_would_give_is_named(siglip: Path, models: Callable[[str], Path], tmp_path: Path) -> None:
    for path in siglip.glob("*token*"):
        path.unlink()
    (siglip / "vocab.txt").unlink()
    with pytest.raises(
        Missing, match=rf"tokenizer .* is none/such of the hub.* copy its tokenizer.json .* to {siglip}"
    ):
        load(siglip)
    shutil.copytree(models("RoBERTa"), roberta := tmp_path / "roberta")
    (roberta / "config.json").unlink()
    text = json.loads((roberta / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    set_config(roberta, "model_cfg", text_cfg=text | {"hf_model_name": "none/such"})
    with pytest.raises(Missing, match=rf"the configuration of none/such, .* copy its config.json to {roberta}"):
        load(roberta)
    with pytest.raises(Missing, match=r"`hf download timm/ViT-B-16-SigLIP2 --local-dir FOLDER` .* open_clip:local-dir"):
        load("ViT-B-16-SigLIP2/webli")


def test_weights_that_are_missing_unknown_or_damaged(
    models: Callable[[str], Path], named: Callable[..., str], tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    model = named("ViT")
    for name, fault in {
        f"{model}//no/such/file.safetensors": Missing,
        f"{model}/no_such_tag": BadInput,
        model: BadInput,
        "no-such-model/openai": BadInput,
        "": BadInput,
        "local-dir:": BadInput,
        "local-dir:/no/such/folder": Missing,
    }.items():
        with pytest.raises(fault) as caught:
            load(name)
        assert caught.value.field == "encoder"
    whole = (models("ViT") / "open_clip_model.safetensors").read_bytes()
    for suffix in ("safetensors", "pt"):
        damaged = tmp_path / f"damaged.{suffix}"
        for content in (b"", whole[:4000], b"<html>"):
            damaged.write_bytes(content)
            with pytest.raises(Damaged, match=damaged.name):
                load(f"{model}/{damaged}", preprocess="openai")
    save_file({"logit_scale": torch.ones(())}, tmp_path / "other.safetensors")
    with pytest.raises(Damaged, match=r"other\.safetensors does not hold the weights of open_clip:small-ViT"):
        load(f"{model}/{tmp_path}/other.safetensors", preprocess="openai")


def test_folders_that_are_damaged(siglip: Path) -> None:
    config = siglip / "open_clip_config.json"
    whole = config.read_text()
    for content in (
        "",
        "[]",
        "{}",
        '{"model_cfg": {"embed_dim": 3}}',
        whole.replace('"squash"', '"stretch"'),
        whole.replace('"mean": [0.5,', '"mean": ['),
    ):
        config.write_text(content)
        with pytest.raises(Damaged, match=r"open_clip_config\.json"):
            load(siglip)
    config.write_text(whole.replace('"embed_dim"', '"embedded"'))
    with pytest.raises(Damaged, match="architecture"):
        load(siglip)
    config.write_text(whole)
    weights = siglip / "open_clip_model.safetensors"
    weights.rename(siglip / "one.safetensors")
    assert load(siglip).details["weights"] == str(siglip / "one.safetensors")
    shutil.copy(siglip / "one.safetensors", siglip / "two.safetensors")
    with pytest.raises(BadInput, match=r"several weights files \(one\.safetensors, two\.safetensors\)"):
        load(siglip)
    for name in ("one", "two"):
        (siglip / f"{name}.safetensors").unlink()
    with pytest.raises(Missing, match="has no weights"):
        load(siglip)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_that_comes_with_a_model_is_not_run(siglip: Path, tmp_path: Path) -> None:
    import torch

    marker = tmp_path / "ran"
    (siglip / "tokens.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Tokens: pass\n")
    tokens = json.loads((siglip / "tokenizer_config.json").read_text())
    tokens |= {"tokenizer_class": "Tokens", "auto_map": {"AutoTokenizer": ["tokens.Tokens", None]}}
    (siglip / "tokenizer_config.json").write_text(json.dumps(tokens))
    text = json.loads((siglip / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    set_config(siglip, "model_cfg", text_cfg=text | {"tokenizer_kwargs": {"trust_remote_code": True}})
    with pytest.raises(Damaged, match="the tokenizer in"):
        load(siglip)
    (siglip / "open_clip_model.safetensors").unlink()
    torch.save({"logit_scale": Touch(marker)}, siglip / "open_clip_pytorch_model.bin")
    with pytest.raises(Damaged, match="does not hold the weights"):
        load(siglip)
    assert not marker.exists()


def test_texts_load_by_the_same_name(models: Callable[[str], Path]) -> None:
    encoder = load_text_encoder(f"open_clip:local-dir:{models('CLIPA')}", CPU)
    assert encoder.fingerprint == load(models("CLIPA")).fingerprint
