"""Text encoders from sentence-transformers, by name or from a local folder.

On CPU a model is exported once and runs in OpenVINO where that gives the library's vectors; else it runs in the
library. On a GPU it runs in the library, in bf16.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from embed.encoders.agreement import EXAMPLE_TEXTS, measure_agreement
from embed.encoders.cpu_model import CpuModel, Run, warn_slow_model
from embed.encoders.device import Device
from embed.encoders.encoder import EncodedTexts, Vectors, encode_in_batches, unit_rows
from embed.encoders.encoder_options import EncoderOptions
from embed.encoders.sentence_export import make_text_module
from embed.encoders.sentence_model import Role, load_sentence_model
from embed.encoders.sentence_tokens import Row, TextTokenizer


class SentenceEncoder:
    """Encodes texts: those of items as the library's `encode_document`, queries as its `encode_query`.

    Code that comes with a model is only run if the options say so. Without options it encodes as version 0.1 did.
    """

    def __init__(self, spec: str, device: Device, options: EncoderOptions | None) -> None:
        self.name = f"st:{spec}"
        self._model = load_sentence_model(spec, device.half, options)
        self._model.library.to(device.kind)
        device.set_torch_threads()
        self._size, self._streams = device.batch(cpu=8, cuda=512), device.streams
        self.dim, self.fingerprint = self._model.dim, self._model.fingerprint
        self._tokenizers = {role: TextTokenizer(self._model, role) for role in self._model.roles}
        self._in_library = "torch on GPU in bf16" if device.half else "torch in f32"
        self._exported = self._export_texts() if device.kind == "cpu" else {}
        self.details = self._describe()

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        """Encode n texts as unit rows [n, dim], with the library's pooling."""
        role = self._model.query if query else self._model.document
        tokenizer = self._tokenizers[role]
        if run := self._exported.get(role):
            rows = tokenizer.tokenize(texts)
            vectors = self._encode_rows(rows, tokenizer, run, self._streams)
            return EncodedTexts(vectors, tokenizer.count_truncated(texts, rows))
        vectors = encode_in_batches(
            texts, 4096, self.dim, partial(self._model.encode, role=role, batch_size=self._size)
        )
        return EncodedTexts(vectors, tokenizer.count_truncated(texts))

    def _encode_rows(self, rows: Sequence[Row], tokenizer: TextTokenizer, run: Run, streams: int) -> Vectors:
        # Texts of similar length share a batch, which keeps padding low.
        widths = [tokenizer.width(row) for row in rows]
        return encode_in_batches(
            rows, self._size, self.dim, lambda batch: unit_rows(run(**tokenizer.pad(batch))), streams, widths
        )

    def _export_texts(self) -> dict[Role, CpuModel]:
        """Export the model for the roles whose texts it takes as tokens; those of one route share an export."""
        exported: dict[Role, CpuModel] = {}
        for roles in self._model.routes:
            tokenizer = self._tokenizers[roles[0]]
            if not tokenizer.has_rows:  # it looks up the vectors of words, which is fast in the library
                continue
            route = "-".join(role.task or "any" for role in roles)
            make = partial(make_text_module, self._model, roles[0], tokenizer.limit)
            measure = partial(self._measure_texts, roles)
            try:
                model = CpuModel(f"sentence-{self._model.key}-{route}", self._streams, make, measure)
            except Exception as error:  # some models cannot be exported, or then give other vectors
                warn_slow_model(self.name, error)
            else:
                exported |= dict.fromkeys(roles, model)
        return exported

    def _measure_texts(self, roles: Sequence[Role], run: Run) -> float:
        """Return the agreement of an export, as it is served, with the library."""
        agreements = [
            measure_agreement(
                self._encode_rows(tokenizer.tokenize(EXAMPLE_TEXTS), tokenizer, run, streams=1),
                self._model.encode(EXAMPLE_TEXTS, role, self._size),
            )
            for role, tokenizer in self._tokenizers.items()
            if role in roles
        ]
        return float(np.min(agreements))

    def _describe(self) -> dict[str, str]:
        kinds = {"queries": self._model.query, "texts of items": self._model.document}
        places = [
            self._exported[role].details if role in self._exported else self._in_library for role in kinds.values()
        ]
        limits = [self._tokenizers[role].limit or "none" for role in kinds.values()]
        details = {
            "query prompt": repr(self._model.query.prompt) if self._model.query.prompt else "none",
            "document prompt": repr(self._model.document.prompt) if self._model.document.prompt else "none",
            "token limit": _of_each(kinds, limits),
            "modules": ", ".join(type(module).__name__ for module in self._model.library),
            "runs in": _of_each(kinds, places),
        }
        if self.dim < self._model.full_dim:
            details["truncation"] = f"the first {self.dim} of {self._model.full_dim} dimensions"
        return details


def _of_each(kinds: Sequence[str] | dict[str, Role], values: Sequence[object]) -> str:
    """Write the value of each kind of text; once if they are the same."""
    if len(set(values)) == 1:
        return str(values[0])
    return "; ".join(f"{kind}: {value}" for kind, value in zip(kinds, values, strict=True))
