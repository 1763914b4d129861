"""Finds the parts of a CLIP model of open_clip by its name: weights, architecture, preprocessing and tokenizer.

Weights belong to one preprocessing and one activation function. They are those that open_clip states for them: in its
table of tags, or in the `open_clip_config.json` beside the weights. A file without either is taken only if all tags of
its model say what open_clip itself does with a file; otherwise the options must say it. (open_clip 3.3.0 prepares every
file as OpenAI's weights, and only warns of another activation than a tag states.)
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from embed.encoders.encoder_options import EncoderOptions
from embed.errors import BadInput, Damaged, Missing

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILES = (  # in open_clip's order
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)

_OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_UNCHANGED = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "openai": {**_OPENAI, "interpolation": "bicubic", "resize_mode": "shortest"},
    "siglip": {**_HALVES, "interpolation": "bicubic", "resize_mode": "squash"},
    "clipa": {**_IMAGENET, "interpolation": "bilinear", "resize_mode": "squash"},
    "mobileclip": {**_UNCHANGED, "interpolation": "bilinear", "resize_mode": "shortest"},
    "mobileclip2": {**_OPENAI, "interpolation": "bilinear", "resize_mode": "shortest"},
    "pe": {**_HALVES, "interpolation": "bilinear", "resize_mode": "squash"},
}
"""The kinds of preprocessing in open_clip's table of tags."""
PREPROCESSING = tuple(PRESETS["openai"])


@dataclass(frozen=True)
class ClipSource:
    """The parts of a CLIP model, before they are loaded.

    Attributes:
        name: Name of the encoder in the settings.
        weights: The weights file.
        config: The architecture, like `model_cfg` of an `open_clip_config.json`; `quick_gelu` is the activation.
        preprocessing: `mean`, `std`, `interpolation`, `resize_mode` and, optionally, `fill_color`.
        origin: What states the preprocessing, for people.
        folder: The folder of the weights, which may have a tokenizer; None for a tag.
    """

    name: str
    weights: Path
    config: dict[str, Any]
    preprocessing: dict[str, Any]
    origin: str
    folder: Path | None = None


def find_clip(spec: str, options: EncoderOptions) -> ClipSource:
    """Find a CLIP model.

    Args:
        spec: `MODEL/TAG`, `MODEL//file`, `local-dir:/folder` or `hf-hub:ORG/NAME[@revision]`.
        options: Options that say what a file leaves open, or replace what is stated of the weights.

    Raises:
        BadInput: The name is invalid, or the options must say how the weights are used.
        Missing, Damaged: A file or the hub is not there, or a configuration cannot be read.
    """
    name = f"open_clip:{spec}"
    kind, _, place = spec.partition(":")
    if kind in {"local-dir", "hf-hub"} and not place:
        raise BadInput(f"{name} has no place: write local-dir:/FOLDER or hf-hub:ORG/NAME", "encoder")
    if kind == "local-dir":
        return _from_folder(name, Path(place), None, options)
    if kind == "hf-hub":
        return _from_folder(name, *_download(name, place), options)
    model, _, weights = spec.partition("/")
    if not model:
        raise BadInput(f"{name} has no model: write open_clip:MODEL/TAG or open_clip:MODEL//file", "encoder")
    check_weights(model, weights)
    if not is_path(weights):
        return _from_tag(name, model, weights, options)
    if (Path(weights).parent / CONFIG_FILE).is_file():
        return _from_folder(name, Path(weights).parent, Path(weights), options, model)
    return _from_file(name, model, Path(weights), options)


def reason(error: Exception) -> str:
    """Return the first part of an error of another library, on one line."""
    return " ".join(str(error).split())[:300]


def is_path(weights: str) -> bool:
    """Return whether what follows MODEL/ is a file and not a tag."""
    return "/" in weights or "." in weights


def check_weights(model: str, weights: str) -> None:
    """Raise for an unknown model, a missing file or an unknown tag; open_clip's own errors are unclear."""
    import open_clip

    if model not in open_clip.list_models():
        raise BadInput(f"open_clip has no model {model!r}: use one of open_clip.list_models()", "encoder")
    if not weights:
        raise BadInput(f"open_clip:{model} has no weights: write MODEL/TAG or MODEL//file", "encoder")
    if is_path(weights) and not Path(weights).is_file():
        raise Missing(f"weights file {weights!r} does not exist", "encoder")
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not is_path(weights) and weights not in tags:
        choices = f"use one of {', '.join(tags)}" if tags else "it has none, write MODEL//file"
        raise BadInput(f"open_clip has no weights {weights!r} for {model}: {choices}", "encoder")


def stated_for_file(model: str) -> dict[str, list[Any]]:
    """Return what may be true of a weights file of a model: for each field its distinct values, the likeliest first.

    They are those of the model's tags, and those that open_clip itself takes for a file, whatever the model: OpenAI's
    preprocessing and the activation of the architecture. Without tags, the preprocessing is that of any preset.
    """
    import open_clip

    tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    kinds = [*tags, PRESETS["openai"]] if tags else list(PRESETS.values())
    stated = {field: _distinct(kind[field] for kind in kinds) for field in PREPROCESSING}
    return {**stated, "activation": _distinct(map(_activation, [*tags, open_clip.get_model_config(model)]))}


def _from_file(name: str, model: str, weights: Path, options: EncoderOptions) -> ClipSource:
    import open_clip

    given = _given(options)
    stated = stated_for_file(model)
    left_open = [field for field, values in stated.items() if field not in given and len(values) > 1]
    if left_open:
        raise BadInput(_ask(name, model, {field: stated[field] for field in left_open}), f"encoders.{name}")
    chosen = {field: values[0] for field, values in stated.items()}
    origin = "" if given.keys() >= stated.keys() else f"the tags of {model}"
    return _make(name, weights, open_clip.get_model_config(model), chosen, origin, given, weights.parent)


def _ask(name: str, model: str, left_open: dict[str, list[Any]]) -> str:
    """Say what to write for a file whose model does not say how photos are prepared, or which activation it has."""
    import open_clip

    tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    why = "its tags, and what open_clip does with a file, differ in it" if tags else f"open_clip has no tag of {model}"
    choices: dict[str, Iterable[Any]] = dict(left_open)
    fitting = [name for tag in tags for name in PRESETS if PRESETS[name].items() <= tag.items()]
    if set(PREPROCESSING) & set(left_open) and len(fitting) == len(tags):
        presets = {"preprocess": _distinct([*fitting, *PRESETS])}
        choices = presets | {field: left_open[field] for field in left_open if field == "activation"}
    lines = [
        f"{field} = {first}" + (f"  # or {', '.join(others)}" if others else "")
        for field, (first, *others) in ((field, map(json.dumps, values)) for field, values in choices.items())
    ]
    return (
        f"{name} leaves open: {', '.join(choices)} ({why}, and no {CONFIG_FILE} is beside the file). "
        f"Write in vetrina.toml what the weights were trained with:\n"
        + "\n".join((f"[encoders.{json.dumps(name)}]", *lines))
    )


def _from_tag(name: str, model: str, tag: str, options: EncoderOptions) -> ClipSource:
    import open_clip

    config, stated = open_clip.get_model_config(model), open_clip.get_pretrained_cfg(model, tag)
    try:
        weights = Path(open_clip.download_pretrained(stated))
    except Exception as error:  # the hub's client and urllib have their own errors
        repository = "/".join(stated.get("hf_hub", "").split("/")[:2])
        raise Missing(
            f"the weights of {name} cannot be loaded ({reason(error)}). {_copy(repository)}", "encoder"
        ) from error
    if config.get("quick_gelu"):
        stated = {**stated, "quick_gelu": True}
    chosen = {field: stated[field] for field in PREPROCESSING} | {"activation": _activation(stated)}
    return _make(name, weights, config, chosen, f"the tag {tag}", _given(options))


def _from_folder(
    name: str, folder: Path, weights: Path | None, options: EncoderOptions, model: str | None = None
) -> ClipSource:
    """Find a model by its configuration; `model` is the architecture that its name says it has, if it says one."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise Missing(f"{name}: {path} does not exist", "encoder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config, own = dict(content["model_cfg"]), dict(content.get("preprocess_cfg") or {})
        dict(config["vision_cfg"]), dict(config["text_cfg"])
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is not a configuration of open_clip ({error!r})", "encoder") from error
    if model is not None and (difference := _difference(model, config)):
        raise BadInput(
            f"{name} is not a {model}: {path} has {difference}. Write open_clip:local-dir:{folder}", f"encoders.{name}"
        )
    stated = {**PRESETS["openai"], **{field: value for field, value in own.items() if value is not None}}
    try:
        EncoderOptions.model_validate({field: stated[field] for field in PREPROCESSING})
    except ValidationError as error:
        first = error.errors()[0]
        field = first["loc"][0]
        raise Damaged(f"{path}: {field} {stated[str(field)]!r} is invalid ({first['msg']})", "encoder") from error
    fill = stated.get("fill_color", 0)
    if type(fill) is not int or not 0 <= fill <= 255:
        raise Damaged(f"{path}: fill_color {fill!r} is invalid: write one level from 0 to 255", "encoder")
    chosen = {field: stated[field] for field in (*PREPROCESSING, "fill_color") if field in stated}
    chosen["activation"] = _activation(config)
    return _make(name, weights or _find_weights(folder), config, chosen, str(path), _given(options), folder)


def _difference(model: str, config: dict[str, Any]) -> str:
    """Return in which value a configuration contradicts the architecture of a model of open_clip; empty for none."""
    import open_clip

    known = open_clip.get_model_config(model)
    pairs = {"embed_dim": (known["embed_dim"], config.get("embed_dim"))}
    for field in ("timm_model_name", "layers", "width", "patch_size"):
        pairs[f"vision_cfg.{field}"] = known["vision_cfg"].get(field), config["vision_cfg"].get(field)
    return next((f"{field} {other}, not {one}" for field, (one, other) in pairs.items() if one != other), "")


def _make(
    name: str,
    weights: Path,
    config: dict[str, Any],
    chosen: dict[str, Any],
    origin: str,
    given: dict[str, Any],
    folder: Path | None = None,
) -> ClipSource:
    """Make a source of what is stated of the weights, and of what the options say instead."""
    chosen = {**chosen, **given}
    config = {**config, "quick_gelu": chosen.pop("activation") == "quick_gelu"}
    if given:
        origin = " and ".join(filter(None, ("the options", origin)))
    return ClipSource(name, weights, config, chosen, origin, folder)


def _given(options: EncoderOptions) -> dict[str, Any]:
    """Return the fields that options set: a preset, and what they say beyond it."""
    given = options.given
    return {**PRESETS.get(given.pop("preprocess", ""), {}), **given}


def _activation(stated: Mapping[str, Any]) -> str:
    return "quick_gelu" if stated.get("quick_gelu") else "gelu"


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _find_weights(folder: Path) -> Path:
    """Return the weights file of a folder: the first of open_clip's names, or the only one."""
    known = [folder / name for name in WEIGHTS_FILES if (folder / name).is_file()]
    others = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS_SUFFIXES)
    if not known and not others:
        raise Missing(f"{folder} has no weights, such as {WEIGHTS_FILES[0]}", "encoder")
    if not known and len(others) > 1:
        names = ", ".join(path.name for path in others)
        raise BadInput(f"{folder} has several weights files ({names}): call one {WEIGHTS_FILES[0]}", "encoder")
    return (known or others)[0]


def _download(name: str, place: str) -> tuple[Path, Path]:
    """Return the local folder of a repository of the hub, and its weights file; the cache is used without the hub."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    repository, _, revision = place.partition("@")
    try:
        patterns = [CONFIG_FILE, "config.json", *TOKENIZER_FILES]
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
        files = WEIGHTS_FILES[:3]  # the others are of other libraries
        # What is in the cache comes first, because the hub's client asks for half a minute without a connection.
        for file in sorted(files, key=lambda file: not (folder / file).is_file()):
            try:
                return folder, Path(hf_hub_download(repository, file, revision=folder.name))
            except (EntryNotFoundError, FileNotFoundError):
                continue
    except HFValidationError as error:
        raise BadInput(f"{name} is invalid: write hf-hub:ORG/NAME or hf-hub:ORG/NAME@revision", "encoder") from error
    except Exception as error:  # the errors of its HTTP client
        raise Missing(f"{name} cannot be loaded ({reason(error)}). {_copy(repository)}", "encoder") from error
    raise Missing(f"{name} has no weights {', '.join(files)}. {_copy(repository)}", "encoder")


def _copy(repository: str) -> str:
    """Say how to use a repository of the hub without the hub."""
    if not repository:
        return "Without a connection, use a local weights file: open_clip:MODEL//file"
    return (
        f"Without a connection to the hub, run `hf download {repository} --local-dir FOLDER` where there is one, copy "
        "the folder, and use open_clip:local-dir:/FOLDER"
    )
