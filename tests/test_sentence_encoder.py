"""Encoders of sentence-transformers: each equals the library, counts what it cuts, and is told apart by what counts."""

import http.server
import json
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.sentence_models import (
    FAMILIES,
    LIMIT,
    MULTIMODAL,
    PROMPTS,
    TEXTS,
    encoder_vectors,
    library_of,
    library_vectors,
    make_tokenizer,
    save_sentence_model,
)
from PIL import Image

from embed.encoders import NO_OPTIONS, EncoderOptions, ImageEncoder, TextEncoder, load_image_encoder, load_text_encoder
from embed.encoders.agreement import MIN_EXACT, MIN_SERVED, example_images, measure_agreement
from embed.encoders.cpu_model import CpuModel, Disagreement
from embed.encoders.device import Device
from embed.encoders.encoder import make_fingerprint, unit_rows, weights_hash
from embed.encoders.sentence_fingerprint import fingerprint_of
from embed.encoders.sentence_images import MAX_SIDE, BoundedPhotos, ModelPreprocessing
from embed.encoders.sentence_model import halve_weights, load_sentence_model
from embed.errors import BadInput, Damaged, Missing

CPU = Device("cpu", 2)
STATIC: dict[str, Any] = {"prompts": PROMPTS, "body": "static"}  # a small model that is never exported
MATRIX = ["several", "last", "dense", "without prompt", "static", "model2vec", "router"]


@pytest.fixture(scope="module", autouse=True)
def export_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VETRINA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save a model with changes, once for all tests."""

    @cache
    def saved(changes: str) -> Path:
        return save_sentence_model(tmp_path_factory.mktemp("model"), **json.loads(changes))

    return lambda **changes: saved(json.dumps(changes, sort_keys=True))


# --------------------------------------------------------------------------------------------- the library's vectors


@pytest.mark.parametrize("name", [*MATRIX, "clip", "patches"])
def test_vectors_are_those_of_the_library(
    name: str, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES[name]
    folder, control = save(**family.model), save(**{**family.model, **family.control})
    multimodal = family.model.get("body") in MULTIMODAL
    load, photos = (load_image_encoder, list(example_images(60, 50))) if multimodal else (load_text_encoder, [])
    encoder = load(f"st:{folder}", CPU, family.options)
    served = encoder_vectors(encoder, photos)
    monkeypatch.setattr("embed.encoders.cpu_model._precisions", lambda: ["f32"])
    exact = encoder_vectors(load(f"st:{folder}", CPU, family.options), photos)
    right = library_vectors(folder, family.options, photos)
    wrong = library_vectors(control, family.options, photos)
    for vectors, limit in ((served, MIN_SERVED), (exact, MIN_EXACT)):
        assert min(map(measure_agreement, vectors, right)) >= limit
    assert min(map(measure_agreement, exact, wrong)) < MIN_SERVED
    assert encoder.dim == served[0].shape[1] == right[0].shape[1]
    np.testing.assert_allclose(np.linalg.norm(served[0], axis=1), 1, atol=1e-5)


def test_given_prompts_and_dimensions(save: Callable[..., Path]) -> None:
    folder = save(**STATIC)
    options = EncoderOptions(query_prompt="query: ", document_prompt="", truncate_dim=20)
    encoder = load_text_encoder(f"st:{folder}", CPU, options)
    for vectors, right in zip(encoder_vectors(encoder, []), library_vectors(folder, options, []), strict=True):
        np.testing.assert_allclose(vectors, unit_rows(right), atol=1e-6)
    assert measure_agreement(encoder.encode_texts(TEXTS).vectors, library_of(folder).encode(TEXTS)[:, :20]) > MIN_EXACT
    assert (encoder.details["query prompt"], encoder.details["document prompt"]) == ("'query: '", "none")
    assert encoder.details["truncation"] == "the first 20 of 32 dimensions"
    with pytest.raises(BadInput, match=r"truncate_dim is 33, but vectors of .* have 32 dimensions"):
        load_text_encoder(f"st:{folder}", CPU, EncoderOptions(truncate_dim=33))


def test_a_prompt_that_the_library_leaves_out_is_said(save: Callable[..., Path], caplog: Any) -> None:
    folder = save(body="static", prompts={"query": "query: ", "passage": "passage: "})
    encoder = load_text_encoder(f"st:{folder}", CPU)
    assert "does not put the prompt 'passage' of the model before texts: set document_prompt" in caplog.text
    assert encoder.details["document prompt"] == "none"


def test_several_threads_encode_at_once(save: Callable[..., Path]) -> None:
    for name in ("dense", "without prompt"):  # in OpenVINO and in the library
        encoder = load_text_encoder(f"st:{save(**FAMILIES[name].model)}", CPU)
        jobs = [(["red " * 3000, *TEXTS[at : at + 5]], bool(at % 2)) for at in range(12)] * 2  # the first is cut
        alone = [encoder.encode_texts(*job).vectors for job in jobs]
        with ThreadPoolExecutor(8) as pool:
            together = [encoded.vectors for encoded in pool.map(encoder.encode_texts, *zip(*jobs, strict=True))]
        np.testing.assert_allclose(np.concatenate(together), np.concatenate(alone), atol=1e-5)


def test_cut_texts_are_counted_with_their_prompts(save: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("dense", "without prompt"):  # in OpenVINO and in the library
        encoder = load_text_encoder(f"st:{save(**FAMILIES[name].model)}", CPU)
        for query, prompt in ((True, PROMPTS["query"]), (False, PROMPTS["document"])):
            most = LIMIT - len(make_tokenizer()(prompt)["input_ids"])  # words that are one token each
            texts = ["red", "red " * most, "red " * (most + 1), "red " * 3 * LIMIT]
            encoded = encoder.encode_texts(texts, query)
            assert encoded.truncated == 2
            np.testing.assert_allclose(encoded.vectors[2], encoded.vectors[3], atol=1e-3)
        assert encoder.encode_texts([]).vectors.shape == (0, encoder.dim)
    static = save(**STATIC)
    assert load_text_encoder(f"st:{static}", CPU).encode_texts(["red " * 9999]).truncated == 0
    cut = shutil.copytree(static, tmp_path / "cut")
    prompt = len(make_tokenizer()(PROMPTS["document"])["input_ids"]) - 2
    change(
        cut / "tokenizer.json",
        truncation={"max_length": prompt + 3, "strategy": "LongestFirst", "direction": "Right", "stride": 0},
    )
    assert load_text_encoder(f"st:{cut}", CPU).encode_texts(["red " * 3, "red " * 4]).truncated == 1


# --------------------------------------------------------------------------------------------------- photos and words


def test_words_that_look_like_an_address_are_never_opened(save: Callable[..., Path], tmp_path: Path) -> None:
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    photo = tmp_path / "a.png"
    Image.new("RGB", (40, 40), "red").save(photo)
    folder = save(body="clip")
    encoder = load_image_encoder(f"st:{folder}", CPU)
    assert isinstance(encoder, TextEncoder)
    library = library_of(folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        texts = [str(photo), f"http://127.0.0.1:{server.server_port}/shoe.jpg", "data:image/png;base64,iVBORw0KGgo="]
        for text in texts:
            vectors = encoder.encode_texts([text], query=True).vectors
            assert (vectors @ unit_rows(library.encode_query([{"text": text}])).T).item() > MIN_SERVED
        assert requests == []
        with pytest.raises(Exception, match=r"404|image"):
            library.encode_query([texts[1]])  # the library alone does open it
        server.shutdown()
    assert requests == ["/shoe.jpg"]


def test_only_multimodal_models_take_photos(save: Callable[..., Path]) -> None:
    clip = f"st:{save(body='clip')}"
    joint, texts = load_image_encoder(clip, CPU), load_text_encoder(clip, CPU)
    assert isinstance(joint, ImageEncoder)
    assert isinstance(joint, TextEncoder)
    assert not isinstance(texts, ImageEncoder)
    assert (joint.fingerprint, joint.dim) == (texts.fingerprint, texts.dim)
    assert joint.details["preprocessing"] == "the model's own (CLIPImageProcessor, 32 pixels)"
    with pytest.raises(BadInput, match="encodes texts only: write it as text_encoder") as caught:
        load_image_encoder(f"st:{save(**STATIC)}", CPU)
    assert caught.value.field == "image_encoder"


def test_photos_are_prepared_in_other_processes_and_kept_small(save: Callable[..., Path]) -> None:
    encoder = load_image_encoder(f"st:{save(body='clip')}", CPU)
    assert isinstance(encoder.prepare, ModelPreprocessing)
    prepare = pickle.loads(pickle.dumps(encoder.prepare))  # noqa: S301  as for a process that reads images
    photo = example_images(300, 200)[0]
    prepared = prepare(photo)
    assert (prepared.shape, prepared.dtype, encoder.shrink_to) == ((32, 32, 3), np.uint8, 32)
    np.testing.assert_array_equal(prepared, encoder.prepare(photo))
    bounded = pickle.loads(pickle.dumps(BoundedPhotos()))  # noqa: S301
    assert bounded(photo) is photo
    assert bounded(np.zeros((MAX_SIDE * 2, 300, 3), np.uint8)).shape == (MAX_SIDE, 150, 3)
    assert encoder.encode_images([]).shape == (0, encoder.dim)


# ------------------------------------------------------------------------------------------------------- fingerprints


def change(path: Path, **settings: Any) -> None:
    """Change settings of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def fingerprint(folder: Path, options: EncoderOptions | None = NO_OPTIONS, half: bool = False) -> str:
    return load_sentence_model(str(folder), half, options).fingerprint


def add_normalize(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    kind = "sentence_transformers.sentence_transformer.modules.Normalize"
    modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))


CHANGES: dict[str, Callable[[Path], None]] = {
    "query prompt": lambda folder: change(folder / "config_sentence_transformers.json", prompts={"query": "which: "}),
    "document prompt": lambda folder: change(
        folder / "config_sentence_transformers.json", prompts={"document": "it: "}
    ),
    "dimensions": lambda folder: change(folder / "config_sentence_transformers.json", truncate_dim=9),
    "activation": lambda folder: change(folder / "config.json", hidden_act="relu"),
    "pooling": lambda folder: change(folder / "1_Pooling" / "config.json", pooling_mode="max"),
    "token limit": lambda folder: change(folder / "tokenizer_config.json", model_max_length=20),
    "padding side": lambda folder: change(folder / "tokenizer_config.json", padding_side="left"),
    "normalizer": lambda folder: change(folder / "tokenizer.json", normalizer={"type": "NFC"}),
    "module": add_normalize,
}


def test_what_changes_a_vector_changes_the_fingerprint(save: Callable[..., Path], tmp_path: Path) -> None:
    original = save()
    found = {"original": fingerprint(original)}
    for name, alter in CHANGES.items():
        alter(shutil.copytree(original, tmp_path / name))
        found[name] = fingerprint(tmp_path / name)
    clip, other = (save(**{"body": "clip", **more}) for more in ({}, FAMILIES["clip"].control))
    found |= {"clip": fingerprint(clip), "image mean": fingerprint(other), "weights": fingerprint(save(dense=True))}
    found["option"] = fingerprint(original, EncoderOptions(query_prompt="query: "))
    assert len(set(found.values())) == len(found), found


def test_nothing_else_changes_the_fingerprint(save: Callable[..., Path], tmp_path: Path) -> None:
    original = save()
    copy = shutil.copytree(original, tmp_path / "a copy@home")
    change(copy / "config.json", transformers_version="9.9.9", _name_or_path="elsewhere")
    (copy / "README.md").write_text("Another text.")
    model = load_sentence_model(str(copy), False, NO_OPTIONS)
    same = {fingerprint(original), fingerprint(original, half=True), model.fingerprint}
    model.library.encode_document(["a longer text that is padded and cut " * 20, "short"])  # sets up the tokenizer
    same |= {fingerprint_of(model.library, query=model.query, document=model.document, dim=model.dim)}
    same |= {fingerprint(original, EncoderOptions(query_prompt="", document_prompt=""))}  # as its own
    assert len(same) == 1


def test_weights_are_halved_as_the_library_does(save: Callable[..., Path]) -> None:
    import torch

    folder = save(**FAMILIES["last"].model)
    ours, theirs = library_of(folder), library_of(folder, model_kwargs={"torch_dtype": torch.bfloat16})
    halve_weights(ours)
    assert {each.dtype for each in ours.state_dict().values()} == {torch.bfloat16}
    arguments: dict[str, Any] = {"convert_to_tensor": True}
    assert torch.equal(ours.encode(TEXTS, **arguments), theirs.encode(TEXTS, **arguments))


# -------------------------------------------------------------------------------------------------------- version 0.1


def fingerprint_of_version_01(folder: Path, half: bool) -> str:
    """The formula of version 0.1, on a model loaded as it did."""
    import torch

    model = library_of(folder, model_kwargs={"torch_dtype": torch.bfloat16} if half else {})
    return make_fingerprint(
        model=type(model[0].auto_model).__name__,
        weights=weights_hash(model.state_dict().items()),
        preprocessing=f"tokens={model.max_seq_length};{[str(module) for module in list(model)[1:]]}",
    )


def test_releases_of_version_01_keep_their_encoder(save: Callable[..., Path], tmp_path: Path) -> None:
    original = save(body="roberta", prompts=PROMPTS)
    one, other = (shutil.copytree(original, tmp_path / name) for name in ("one", "other"))
    change(one / "config_sentence_transformers.json", default_prompt_name="query")
    change(other / "config.json", hidden_act="relu")
    encoders = [load_text_encoder(f"st:{folder}", CPU, None) for folder in (one, other)]
    assert {encoder.fingerprint for encoder in encoders} == {fingerprint_of_version_01(original, half=False)}
    assert fingerprint(one, None, half=True) == fingerprint_of_version_01(one, half=True)
    for encoder, folder in zip(encoders, (one, other), strict=True):  # the export of the one is not that of the other
        right = library_of(folder).encode(TEXTS)
        for query in (True, False):
            assert measure_agreement(encoder.encode_texts(TEXTS, query=query).vectors, right) > MIN_SERVED
        assert "OpenVINO" in encoder.details["runs in"]
    assert measure_agreement(library_of(one).encode(TEXTS), library_of(other).encode(TEXTS)) < MIN_SERVED


# -------------------------------------------------------------------------------------------------- names, code, faults


def test_a_revision_is_pinned(save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commits = ["a" * 40, "b" * 40]
    snapshots = tmp_path / "models--shop--words" / "snapshots"
    for commit, prompt in zip(commits, ("one: ", "two: "), strict=True):
        shutil.copytree(save(**STATIC), snapshots / commit)
        change(snapshots / commit / "config_sentence_transformers.json", prompts={"query": prompt})
    for options in (NO_OPTIONS, EncoderOptions(trust_remote_code=True)):
        one, two = (load_text_encoder(f"st:shop/words@{commit}", CPU, options) for commit in commits)
        assert (one.details["query prompt"], two.details["query prompt"]) == ("'one: '", "'two: '")
    with pytest.raises(Missing, match="cannot be downloaded"):
        load_text_encoder(f"st:shop/words@{'c' * 40}", CPU)


def test_code_of_a_model_runs_only_if_the_options_say_so(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = shutil.copytree(save(**STATIC), tmp_path / "model")
    (folder / "modeling_own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "from sentence_transformers.sentence_transformer.modules import Normalize\n"
        "class Own(Normalize):\n    pass\n"
    )
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(
        json.dumps([*modules, {"idx": 1, "name": "1", "path": "", "type": "modeling_own.Own"}])
    )
    with pytest.raises(BadInput, match=r"needs code that comes with it.*set trust_remote_code = true") as caught:
        load_text_encoder(f"st:{folder}", CPU)
    assert caught.value.field == f"encoders.st:{folder}.trust_remote_code"
    assert not (tmp_path / "ran").exists()
    trusting = EncoderOptions(trust_remote_code=True)
    encoder = load_text_encoder(f"st:{folder}", CPU, trusting)
    assert (tmp_path / "ran").exists()
    (folder / "modeling_own.py").write_text((folder / "modeling_own.py").read_text() + "\n# another version\n")
    assert load_text_encoder(f"st:{folder}", CPU, trusting).fingerprint != encoder.fingerprint
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "someone/else--modeling.Model"}}')
    with pytest.raises(
        BadInput, match=r"another repository .someone/else--modeling.Model., whose revision is not pinned"
    ):
        load_text_encoder(f"st:{folder}", CPU, trusting)


@pytest.mark.parametrize("name", ["shop/words", "shop/words@main", f"shop/words@{'a' * 39}"])
def test_trusted_code_needs_a_pinned_revision(name: str) -> None:
    with pytest.raises(BadInput, match="trust_remote_code needs a model whose code cannot change") as caught:
        load_text_encoder(f"st:{name}", CPU, EncoderOptions(trust_remote_code=True))
    assert caught.value.field == f"encoders.st:{name}.trust_remote_code"


def test_models_that_are_missing_or_damaged(save: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"model folder .* does not exist"):
        load_text_encoder(f"st:{tmp_path}/nothing", CPU)
    with pytest.raises(BadInput, match="no name or no revision"):
        load_text_encoder("st:words@", CPU)
    damaged = shutil.copytree(save(), tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes((damaged / "model.safetensors").read_bytes()[:3000])
    with pytest.raises(Damaged, match=str(damaged)):
        load_text_encoder(f"st:{damaged}", CPU)
    wordless = shutil.copytree(save(), tmp_path / "wordless")
    for path in (*wordless.rglob("tokenizer*"), *wordless.rglob("vocab*")):
        path.unlink()
    with pytest.raises(Damaged, match="has no words: copy its vocabulary too"):
        load_text_encoder(f"st:{wordless}", CPU)
    from safetensors.torch import load_file, save_file

    whole = shutil.copytree(save(body="model2vec"), tmp_path / "whole numbers")
    weights = load_file(whole / "model.safetensors")["embeddings"]
    save_file({"embeddings": (weights * 30).char()}, whole / "model.safetensors")
    with pytest.raises(BadInput, match="are whole numbers"):
        load_text_encoder(f"st:{whole}", CPU)


def test_a_model_that_cannot_be_exported_runs_in_the_library(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr("embed.encoders.cpu_model._export", fail)
    monkeypatch.setenv("VETRINA_CACHE", str(tmp_path))
    for load, body, photos in (
        (load_text_encoder, "bert", []),
        (load_image_encoder, "clip", list(example_images(60, 50))),
    ):
        folder = save(body=body)
        encoder = load(f"st:{folder}", CPU)
        right = library_vectors(folder, NO_OPTIONS, photos)
        assert min(map(measure_agreement, encoder_vectors(encoder, photos), right)) > MIN_EXACT
        assert "torch in f32" in encoder.details["runs in"]
    assert caplog.text.count("no such operator") == 3


def test_an_export_is_measured_as_it_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Double(torch.nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows * 2

    rows = torch.arange(6.0).reshape(2, 3)
    monkeypatch.setenv("VETRINA_CACHE", str(tmp_path))
    with pytest.raises(Disagreement, match=r"other vectors \(agreement 0\.5"):
        CpuModel("double", 1, lambda: (Double(), {"rows": rows}, {"rows": {0: torch.export.Dim("n")}}), lambda run: 0.5)
