"""Loads models of sentence-transformers: what a name means, the prompts, the token limits, the dimensions."""

import logging
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from embed.encoders.encoder import Vectors, lacks_vocabulary, unit_rows
from embed.encoders.encoder_options import NO_OPTIONS, EncoderOptions
from embed.encoders.sentence_fingerprint import fingerprint_of, fingerprint_v01
from embed.errors import BadInput, Damaged, Missing

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

COMMIT = re.compile("[0-9a-f]{40}")
ELSEWHERE = re.compile(
    r'"([\w.-]+/[\w.-]+--[\w.]+)"|"base_model_name_or_path": *"([^"]*)"'
)  # code, and adapters' models
VOCABULARIES = {"tokenizer.json", "vocab.json"}
READ_PADDING = {"siglip", "siglip2"}  # types of models that read padding as words
MAX_LIMIT = 10**9  # tokens; tokenizers without a limit have 1e30


Part = str | Image.Image
_log = logging.getLogger("vetrina")


class Role(NamedTuple):
    """How texts are encoded: the task that the library routes them by, and the text before each of them."""

    task: str | None
    prompt: str


@dataclass(frozen=True)
class SentenceModel:
    """A loaded model.

    Attributes:
        library: The model of the library, on CPU, in fp32 or bf16.
        query: How queries are encoded.
        document: How texts of items are encoded.
        dim: Dimensions of its vectors.
        full_dim: Dimensions before they are truncated.
        fingerprint: Hash of all that changes a vector.
        key: The same, also where `fingerprint` is that of version 0.1, which leaves out some of it.
    """

    library: "SentenceTransformer"
    query: Role
    document: Role
    dim: int
    full_dim: int
    fingerprint: str
    key: str
    lock: threading.Lock = field(default_factory=threading.Lock)  # tokenizers are not safe in several threads

    @property
    def roles(self) -> list[Role]:
        """How queries and documents are encoded, once if it is the same."""
        return list(dict.fromkeys((self.query, self.document)))

    @property
    def routes(self) -> list[list[Role]]:
        """The roles; those that run through the same modules are together."""
        from sentence_transformers.base.modules import Router

        routed = any(isinstance(module, Router) for module in self.library.modules())
        return [[role] for role in self.roles] if routed else [self.roles]

    def encode(self, parts: Sequence[Part], role: Role, batch_size: int) -> Vectors:
        """Encode texts or images as unit rows [n, dim], as the library's `encode_query` and `encode_document` do."""
        if not parts:
            return np.empty((0, self.dim), np.float32)
        with self.lock:
            vectors = self.library.encode(
                self._marked(parts),
                prompt=role.prompt,
                task=role.task,
                batch_size=batch_size,
                show_progress_bar=False,
                convert_to_tensor=True,
            )
        return unit_rows(vectors.float().cpu().numpy())  # numpy has no bf16

    def preprocess(self, parts: Sequence[Part], role: Role, **options: Any) -> dict[str, Any]:
        """Convert texts or images to the features of the model, tensors and others, as `encode` does."""
        with self.lock:
            features: dict[str, Any] = self.library.preprocess(
                self._marked(parts), prompt=role.prompt, task=role.task, **options
            )
        return features

    def _marked(self, parts: Sequence[Part]) -> list[Any]:
        """Mark each part as text or image: the library would open a text that looks like a file or an address."""
        if self.library.modalities == ["text"]:
            return list(parts)
        return [{"text" if isinstance(part, str) else "image": part} for part in parts]

    def input_module(self, role: Role, modality: str = "text") -> Any:
        """Return the module that reads texts, or images."""
        return _input_module(self.library, role, modality)

    def token_limit(self, role: Role) -> int | None:
        """Return the maximum of tokens that are read of a text, with its prompt; None if there is none."""
        module = self.input_module(role)
        own = getattr(module, "processing_kwargs", {}).get("text", {}).get("max_length")
        limit = own or getattr(module, f"{role.task}_length", None) or getattr(module, "max_seq_length", None)
        if backend := getattr(module.tokenizer, "truncation", None):  # of a tokenizer without a model
            limit = backend["max_length"]
        return None if limit is None or limit > MAX_LIMIT else int(limit)


def _input_module(library: "SentenceTransformer", role: Role, modality: str) -> Any:
    from sentence_transformers.base.modules import Router

    first: Any = library[0]
    if isinstance(first, Router):  # the library has no public way to ask it for a route
        first = first.sub_modules[first._resolve_route(role.task, modality)][0]
    return first


def load_sentence_model(spec: str, half: bool, options: EncoderOptions | None) -> SentenceModel:
    """Load a model of sentence-transformers.

    Args:
        spec: `NAME`, `NAME@REVISION`, or a folder.
        half: Whether it is to run in bf16.
        options: Prompts, dimensions, and whether code that comes with the model is run; None loads it as version 0.1.

    Raises:
        BadInput: The name or an option is invalid.
        Missing, Damaged: The model is not there, or is not complete.
    """
    import torch

    given = options or NO_OPTIONS
    name, revision = _parse(spec, given)
    if given.trust_remote_code:
        _check_code(spec, name, revision)
    library = _load(spec, name, revision, given)
    query, document = roles = _roles(library, given) if options is not None else _roles_v01(library)
    if any(lacks_vocabulary(getattr(_input_module(library, role, "text"), "tokenizer", None)) for role in roles):
        raise Damaged(
            f"the tokenizer of st:{spec} has no words: copy its vocabulary too, such as tokenizer.json", "encoder"
        )
    try:
        if options is not None:
            _pad_whole(library, roles)
        full_dims = {
            library.encode([""], prompt=role.prompt, task=role.task, truncate_dim=MAX_LIMIT).shape[1] for role in roles
        }
    except Exception as error:  # every module has its own errors
        raise BadInput(f"the model st:{spec} does not encode text ({error})", "encoder") from error
    if len(full_dims) > 1:
        raise BadInput(f"queries and documents of st:{spec} have different dimensions: {sorted(full_dims)}", "encoder")
    full_dim = full_dims.pop()
    if given.truncate_dim and given.truncate_dim > full_dim:
        raise BadInput(
            f"truncate_dim is {given.truncate_dim}, but vectors of st:{spec} have {full_dim} dimensions",
            f"encoders.st:{spec}.truncate_dim",
        )
    dim = min(full_dim, library.truncate_dim or full_dim)
    key = fingerprint_of(library, query=query, document=document, dim=dim)  # before the weights are cast or moved
    fingerprint = fingerprint_v01(library, half) if options is None else key
    if half:
        halve_weights(library)
    else:
        library.to(torch.float32)
    return SentenceModel(library, query, document, dim, full_dim, fingerprint, key)


def _parse(spec: str, options: EncoderOptions) -> tuple[str, str | None]:
    """Split a name into the model and its revision; a folder has none."""
    if not spec:
        raise BadInput("encoder st: has no model name: write st:NAME or st:/path/to/folder", "encoder")
    if Path(spec).is_dir():
        return spec, None
    if spec.startswith((".", "/")):
        raise Missing(f"model folder {spec!r} does not exist", "encoder")
    name, at, revision = spec.partition("@")
    if at and not (name and revision):
        raise BadInput(f"st:{spec} has no name or no revision: write st:NAME@REVISION", "encoder")
    if options.trust_remote_code and not COMMIT.fullmatch(revision):
        raise BadInput(
            f"trust_remote_code needs a model whose code cannot change: write st:{name}@ and the 40 hexadecimal digits "
            "of a commit, or a local folder",
            f"encoders.st:{spec}.trust_remote_code",
        )
    return name, revision or None


def _check_code(spec: str, name: str, revision: str | None) -> None:
    """Raise BadInput if the model's code is in another repository, whose revision the name does not pin."""
    folder = Path(name)
    if revision:
        from huggingface_hub import snapshot_download

        try:
            cache = os.environ.get("SENTENCE_TRANSFORMERS_HOME")  # as the library
            folder = Path(snapshot_download(name, revision=revision, cache_dir=cache, allow_patterns="*.json"))
        except Exception as error:  # of the network, the hub, or the cache
            raise _missing(spec, error) from error
    for path in folder.rglob("*.json"):
        if path.name not in VOCABULARIES and (elsewhere := ELSEWHERE.search(path.read_text(errors="replace"))):
            raise BadInput(
                f"{path.name} of st:{spec} has code or a model of another repository ({elsewhere[1] or elsewhere[2]}), "
                "whose revision is not pinned: make a local folder with all of it",
                f"encoders.st:{spec}.trust_remote_code",
            )


def _load(spec: str, name: str, revision: str | None, options: EncoderOptions) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return SentenceTransformer(
            name,
            device="cpu",
            revision=revision,
            trust_remote_code=options.trust_remote_code,
            truncate_dim=options.truncate_dim,
        )
    except Exception as error:  # every part of a model has its own errors
        if "trust_remote_code" in str(error):
            pinned = "" if Path(name).is_dir() else " and pin its revision, st:NAME@COMMIT"
            raise BadInput(
                f"st:{spec} needs code that comes with it, which is not run unless you trust it: read that code, then "
                f"set trust_remote_code = true{pinned}",
                f"encoders.st:{spec}.trust_remote_code",
            ) from error
        if "floating point" in str(error):  # of a table of words that model2vec made
            raise BadInput(
                f"the weights of st:{spec} are whole numbers (int8): save them as float32", "encoder"
            ) from error
        if Path(name).is_dir():
            raise Damaged(f"{spec} is not a complete sentence-transformers model ({error})", "encoder") from error
        raise _missing(spec, error) from error


def _missing(spec: str, error: Exception) -> Missing:
    return Missing(
        f"model st:{spec} is not on this machine and cannot be downloaded ({_first_line(error)}): copy its folder here "
        "and write st:/path/to/folder",
        "encoder",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]


def _roles(library: "SentenceTransformer", options: EncoderOptions) -> tuple[Role, Role]:
    """Return how the library's `encode_query` and `encode_document` encode, with the prompts of the options."""
    query, document = (
        next((library.prompts[name] for name in names if name in library.prompts), "")
        for names in (("query",), ("document", "passage", "corpus"))
    )
    unused = next((name for name in ("passage", "corpus") if library.prompts.get(name)), "")
    if unused and not document and options.document_prompt is None:
        _log.warning("the library does not put the prompt %r of the model before texts: set document_prompt", unused)
    return (
        Role("query", query if options.query_prompt is None else options.query_prompt),
        Role("document", document if options.document_prompt is None else options.document_prompt),
    )


def _roles_v01(library: "SentenceTransformer") -> tuple[Role, Role]:
    """Return how the library's `encode` encodes: all texts alike."""
    role = Role(None, library.prompts.get(library.default_prompt_name or "", ""))
    return role, role


def _pad_whole(library: "SentenceTransformer", roles: Sequence[Role]) -> None:
    """Let models that read padding as words pad all texts to one length, as they were trained.

    The library pads to the longest text of a batch: their vectors would depend on the other texts.
    """
    for module in (_input_module(library, role, "text") for role in roles):
        if getattr(getattr(module, "config", None), "model_type", "") in READ_PADDING:
            module.processing_kwargs.setdefault("text", {}).setdefault("padding", "max_length")


def halve_weights(library: "SentenceTransformer") -> None:
    """Convert weights to bf16. Buffers that are no weights, such as frequencies, keep their precision."""
    import torch

    for tensor in library.state_dict(keep_vars=True).values():
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(torch.bfloat16)
