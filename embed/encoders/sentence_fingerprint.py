"""Fingerprints of sentence-transformers models: a hash of all that changes a vector, and of nothing else."""

import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from embed.encoders.encoder import make_fingerprint, weights_hash

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

NO_EFFECT = {
    "_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "auto_map",
    "_commit_hash", "model_kwargs", "model_args", "processor_class", "base_model",
}  # fmt: skip
"""Settings that change no vector: where a model was, and what wrote it. Its precision is hashed with its weights."""
CODE = "transformers_modules."  # where transformers puts modules that come with a model
TOKENIZER_SETTINGS = (
    "special_tokens_map", "padding_side", "truncation_side", "model_max_length", "pad_token_type_id", "chat_template",
    "model_input_names",
)  # fmt: skip


def fingerprint_of(library: "SentenceTransformer", **settings: Any) -> str:
    """Return the fingerprint of a model as it was read from disk, on CPU.

    Args:
        library: The model.
        settings: What else changes its vectors: prompts and dimensions.
    """
    parts = [_settings_of(module) for module in library.modules() if hasattr(module, "get_config_dict")]
    children = [type(module).__qualname__ for module in library]
    return make_fingerprint(
        library="sentence-transformers",
        weights=weights_hash(library.state_dict().items()),
        modules=_canonical([children, parts, _code_hashes(library)]),
        settings=_canonical(settings),
    )


def fingerprint_v01(library: "SentenceTransformer", half: bool) -> str:
    """Return the fingerprint that version 0.1 gave a model; it hashed the weights in the precision that it ran in."""
    import torch

    return make_fingerprint(
        model=type(library[0].auto_model).__name__,
        weights=weights_hash(
            (name, tensor.to(torch.bfloat16) if half and tensor.is_floating_point() else tensor)
            for name, tensor in library.state_dict().items()
        ),
        preprocessing=f"tokens={library.max_seq_length};{[str(module) for module in list(library)[1:]]}",
    )


def _settings_of(module: Any) -> dict[str, Any]:
    """Return what a module of the library was made of, beside its weights."""
    settings = {"class": type(module).__qualname__, "settings": module.get_config_dict()}
    if hasattr(getattr(module, "config", None), "to_diff_dict"):  # it holds a model of transformers
        settings |= {"model": type(module.model).__qualname__, "config": module.config.to_diff_dict()}
    if getattr(module, "tokenizer", None) is not None:
        settings["tokenizer"] = _tokenizer_settings(module.tokenizer)
    processor = getattr(module, "processor", None)
    images: Any = getattr(processor, "image_processor", processor)
    if hasattr(images, "image_mean"):
        settings |= {"images": images.to_dict(), "chat_template": getattr(processor, "chat_template", None)}
    return settings


def _tokenizer_settings(tokenizer: Any) -> dict[str, Any]:
    """Return the content of a tokenizer, without the truncation and padding that each call sets anew."""
    settings = {name: getattr(tokenizer, name) for name in TOKENIZER_SETTINGS if hasattr(tokenizer, name)}
    settings["class"] = type(tokenizer).__qualname__
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        content = orjson.loads(backend.to_str())
        content.pop("padding")
        if backend is not tokenizer:  # one without a model truncates as its file says
            content.pop("truncation")
        return {**settings, "content": content}
    return {**settings, "content": vars(tokenizer)}


def _code_hashes(library: "SentenceTransformer") -> list[str]:
    """Hash the code that comes with a model; nothing for modules of libraries."""
    classes = {type(module) for module in library.modules()}
    folders = {Path(inspect.getfile(each)).parent for each in classes if each.__module__.startswith(CODE)}
    sources = [{path.name: path.read_text() for path in folder.glob("*.py")} for folder in folders]
    return sorted(hashlib.blake2b(_canonical(each).encode(), digest_size=16).hexdigest() for each in sources)


def _canonical(value: Any) -> str:
    """Write settings as JSON with sorted names, without those that have no effect."""
    return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items() if name not in NO_EFFECT}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, str | bool) or value is None else repr(value)
