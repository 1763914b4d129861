"""Sentence encoders through sentence-transformers, by name or from a local folder."""

from collections.abc import Sequence
from pathlib import Path

from embed.encoders.device import Device
from embed.encoders.encoder import EncodedTexts, Vectors, in_batches, make_fingerprint, unit_rows, weights_hash
from embed.errors import BadInput, Damaged, Missing


class SentenceEncoder:
    """Any sentence-transformers model; no code that comes with a model is run."""

    def __init__(self, model: str, device: Device) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        if not model:
            raise BadInput("st: names no model: write st:NAME or st:/path/to/folder", "encoder")
        if model.startswith((".", "/")) and not Path(model).is_dir():
            raise Missing(f"there is no model folder {model!r}", "encoder")
        try:
            self._model = SentenceTransformer(
                model,
                device=device.kind,
                trust_remote_code=False,
                model_kwargs={"torch_dtype": torch.bfloat16} if device.half else {},
            )
        except Exception as error:  # every part of a model has errors of its own
            if Path(model).is_dir():
                raise Damaged(f"{model} is no whole sentence-transformers model ({error})", "encoder") from error
            raise Missing(
                f"the model st:{model} is not on this machine and could not be fetched: copy its folder here and "
                "write st:/path/to/folder",
                "encoder",
            ) from error
        if device.kind == "cpu":
            torch.set_num_threads(device.threads)
        self.name = f"st:{model}"
        self.batch = device.batch(cpu=32, cuda=512)
        self.dim = self._encode_batch([""]).shape[1]
        self.fingerprint = make_fingerprint(
            model=type(self._model[0].auto_model).__name__,
            weights=weights_hash(self._model.state_dict().items()),
            preprocessing=f"tokens={self._model.max_seq_length};{[str(module) for module in list(self._model)[1:]]}",
        )

    def encode_texts(self, texts: Sequence[str]) -> EncodedTexts:
        """n texts to [n, dim] unit rows, by the library's own pooling."""
        # One by one, as some tokenizers take no empty list.
        tokenized = [self._model.tokenizer(text, truncation=False, verbose=False)["input_ids"] for text in texts]
        limit = self._model.max_seq_length or float("inf")
        return EncodedTexts(
            in_batches(texts, 4096, self.dim, self._encode_batch),
            sum(len(tokens) > limit for tokens in tokenized),
        )

    def _encode_batch(self, texts: Sequence[str]) -> Vectors:
        return unit_rows(
            self._model.encode(list(texts), batch_size=self.batch, convert_to_numpy=True, show_progress_bar=False)
        )
