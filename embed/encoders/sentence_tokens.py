"""Tokenizes texts as a sentence-transformers model does, and counts those that it cuts."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.encoders.encoder import padded_width
from embed.encoders.sentence_model import Role, SentenceModel

TOKENS = ("input_ids", "attention_mask", "token_type_ids")
BATCH = 64  # texts that are tokenized together
LONG_TEXT = "a " * 1000
Row = dict[str, NDArray[np.int64]]  # the tokens of a text by the name of the model's input, without padding


class TextTokenizer:
    """The tokenizer of a model for queries, or for documents: the prompt comes first.

    Attributes:
        limit: Maximum of tokens that the model reads, with the prompt; None if there is none.
        has_rows: Whether texts become rows of tokens.
    """

    def __init__(self, model: SentenceModel, role: Role) -> None:
        from sentence_transformers.base.modules import Transformer

        self._model, self._role = model, role
        self._module = model.input_module(role)
        self._pads_whole = getattr(self._module, "processing_kwargs", {}).get("text", {}).get("padding") == "max_length"
        self.has_rows = isinstance(self._module, Transformer)
        self.limit = self._find_limit()
        self._max_width = self.limit or sys.maxsize

    def tokenize(self, texts: Sequence[str]) -> list[Row]:
        """Return the tokens of each text."""
        rows: list[Row] = []
        for start in range(0, len(texts), BATCH):
            features = self._model.preprocess(texts[start : start + BATCH], self._role)
            tokens = {name: features[name].numpy() for name in TOKENS if name in features}
            whole = np.ones_like(tokens["input_ids"])
            masks = (whole if self._pads_whole else tokens.get("attention_mask", whole)).astype(bool)
            rows += [{name: values[at][mask] for name, values in tokens.items()} for at, mask in enumerate(masks)]
        return rows

    def count_truncated(self, texts: Sequence[str], rows: Sequence[Row] = ()) -> int:
        """Return how many texts are cut; `rows` are their tokens, if they are known."""
        from tokenizers import Tokenizer

        if self.limit is None:
            return 0
        if self.has_rows:
            rows = rows or self.tokenize(texts)
            full = [text for text, row in zip(texts, rows, strict=True) if len(row["input_ids"]) == self.limit]
            return sum(self._whole_length(text) > self.limit for text in full)
        tokenizer, prompted = self._module.tokenizer, [self._role.prompt + text for text in texts]
        if isinstance(tokenizer, Tokenizer):
            encodings = tokenizer.encode_batch(prompted, add_special_tokens=False)
            return sum(bool(encoding.overflowing) for encoding in encodings)
        return sum(len(tokenizer.tokenize(text)) > self.limit for text in prompted)

    def pad(self, rows: Sequence[Row]) -> dict[str, NDArray[np.int64]]:
        """Make arrays [n, width] of n rows of one padded width."""
        tokenizer, width = self._module.tokenizer, self.width(rows[0])
        filler = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
        left = tokenizer.padding_side == "left"
        padded = {name: np.full((len(rows), width), filler.get(name, 0)) for name in rows[0]}
        for at, row in enumerate(rows):
            for name, values in row.items():
                padded[name][at, slice(width - len(values), width) if left else slice(len(values))] = values
        return padded

    def width(self, row: Row) -> int:
        """Return the padded width of a text."""
        return padded_width(len(row["input_ids"]), self._max_width)

    def _find_limit(self) -> int | None:
        """Try a long text, because processors have limits of their own; else return what the model declares."""
        declared = self._model.token_limit(self._role)
        if not self.has_rows:
            return declared
        length = len(self.tokenize([LONG_TEXT])[0]["input_ids"])
        return length if length < self._whole_length(LONG_TEXT) else declared

    def _whole_length(self, text: str) -> int:
        """Return the number of tokens of a text before it is cut."""
        whole: dict[str, Any] = {"text": {"truncation": False, "padding": False, "verbose": False}}
        features = self._model.preprocess([text], self._role, processing_kwargs=whole)
        return int(features["input_ids"].shape[1])
