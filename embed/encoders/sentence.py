"""Sentence encoders from sentence-transformers, by name or from a local folder.

On CPU the model is exported once and runs in OpenVINO; on a GPU it runs in the library, in bf16.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embed.encoders.agreement import EXAMPLE_TEXTS
from embed.encoders.cpu_model import CpuModel, warn_slow_model
from embed.encoders.device import Device
from embed.encoders.encoder import (
    EncodedTexts,
    Vectors,
    encode_in_batches,
    make_fingerprint,
    padded_width,
    unit_rows,
    weights_hash,
)
from embed.encoders.encoder_options import EncoderOptions
from embed.errors import BadInput, Damaged, Missing

if TYPE_CHECKING:
    from torch.nn import Module


class SentenceEncoder:
    """A sentence-transformers model. Code that comes with a model is never run."""

    def __init__(self, model: str, device: Device, options: EncoderOptions | None = None) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        if not model:
            raise BadInput("encoder st: has no model name: write st:NAME or st:/path/to/folder", "encoder")
        if model.startswith((".", "/")) and not Path(model).is_dir():
            raise Missing(f"model folder {model!r} does not exist", "encoder")
        try:
            self._model = SentenceTransformer(
                model,
                device=device.kind,
                trust_remote_code=False,
                model_kwargs={"torch_dtype": torch.bfloat16} if device.half else {},
            )
        except Exception as error:  # every part of a model has its own errors
            if Path(model).is_dir():
                raise Damaged(f"{model} is not a complete sentence-transformers model ({error})", "encoder") from error
            raise Missing(
                f"model st:{model} is not on this machine and cannot be downloaded: copy its folder here and write "
                "st:/path/to/folder",
                "encoder",
            ) from error
        if device.kind == "cpu":
            torch.set_num_threads(device.threads)
        self.name = f"st:{model}"
        self._size, self._streams = device.batch(cpu=8, cuda=512), device.streams
        self.dim = self._encode_in_library([""]).shape[1]
        self.fingerprint = make_fingerprint(
            model=type(self._model[0].auto_model).__name__,
            weights=weights_hash(self._model.state_dict().items()),
            preprocessing=f"tokens={self._model.max_seq_length};{[str(module) for module in list(self._model)[1:]]}",
        )
        self.details: dict[str, str] = {}
        self._limit = self._model.max_seq_length or sys.maxsize  # tokens it reads
        self._exported: CpuModel | None = None
        if device.kind == "cpu" and not self._model.default_prompt_name:  # only the library applies prompts
            try:
                self._exported = CpuModel(f"sentence-{self.fingerprint}", self._streams, self._make)
            except Exception as error:  # some models cannot be exported; they run more slowly
                warn_slow_model(self.name, error)

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        """Encode n texts as unit rows [n, dim], with the library's pooling."""
        # One by one, because some tokenizers do not accept an empty list.
        tokenized = [self._model.tokenizer(text, truncation=False, verbose=False)["input_ids"] for text in texts]
        truncated = sum(len(tokens) > self._limit for tokens in tokenized)
        if self._exported is None:
            return EncodedTexts(encode_in_batches(texts, 4096, self.dim, self._encode_in_library), truncated)
        # Texts of similar length share a batch, which keeps padding low.
        widths = [padded_width(len(tokens), self._limit) for tokens in tokenized]
        vectors = encode_in_batches(texts, self._size, self.dim, self._encode_in_openvino, self._streams, widths)
        return EncodedTexts(vectors, truncated)

    def _encode_in_library(self, texts: Sequence[str]) -> Vectors:
        return unit_rows(
            self._model.encode(list(texts), batch_size=self._size, convert_to_numpy=True, show_progress_bar=False)
        )

    def _encode_in_openvino(self, texts: Sequence[str]) -> Vectors:
        assert self._exported is not None  # noqa: S101
        tokens = {name: tensor.numpy() for name, tensor in self._tokens(texts).items()}
        length = tokens["input_ids"].shape[1]
        extra = padded_width(length, self._limit) - length
        padding = {"input_ids": self._model.tokenizer.pad_token_id or 0, "attention_mask": 0}
        return unit_rows(
            self._exported(
                **{
                    name: np.pad(values, ((0, 0), (0, extra)), constant_values=padding[name])
                    for name, values in tokens.items()
                }
            )
        )

    def _tokens(self, texts: Sequence[str]) -> dict[str, Any]:
        tokens = self._model.tokenize(list(texts))
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def _make(self) -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
        import torch

        class Sentence(torch.nn.Module):
            def __init__(self, model: torch.nn.Module) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
                outputs = self.model({"input_ids": input_ids, "attention_mask": attention_mask})
                vectors: torch.Tensor = outputs["sentence_embedding"]
                return vectors

        example = self._tokens(EXAMPLE_TEXTS)
        axes = {0: torch.export.Dim("n"), 1: torch.export.Dim("width", max=self._model.max_seq_length or 512)}
        return Sentence(self._model), example, dict.fromkeys(example, axes)
