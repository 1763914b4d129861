"""CLIP through open_clip: one space that takes photos and words. Weights by tag, or from a local file.

On CPU both towers are exported once and run through OpenVINO, on a GPU through torch, in bf16.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embed.encoders.cpu_model import CpuModel, log_slow
from embed.encoders.device import Device
from embed.encoders.encoder import (
    EncodedTexts,
    Prepared,
    Vectors,
    in_batches,
    make_fingerprint,
    unit_rows,
    weights_hash,
)
from embed.encoders.gpu import GpuModel, JpegDecoder, stacked
from embed.errors import BadInput, Damaged, Missing

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


class ClipEncoder:
    """`MODEL/PRETRAINED` of open_clip, where PRETRAINED is a tag of its table or the path of a weights file."""

    def __init__(self, spec: str, device: Device) -> None:
        import open_clip
        import torch

        model_name, _, pretrained = spec.partition("/")
        if model_name not in open_clip.list_models():
            raise BadInput(f"open_clip has no model {model_name!r}: use one of open_clip.list_models()", "encoder")
        if not pretrained:
            raise BadInput(f"open_clip:{spec} names no weights: write open_clip:MODEL/TAG or MODEL/FILE", "encoder")
        self._check_weights_known(model_name, pretrained)
        try:
            model, _, preprocess = open_clip.create_model_and_transforms(
                model_name, pretrained=pretrained, device=device.kind, weights_only=True
            )
        except Exception as error:  # every reader of weights has errors of its own
            if Path(pretrained).is_file():
                raise Damaged(f"{pretrained} does not hold the weights of {model_name} ({error})", "encoder") from error
            raise Missing(
                f"the weights of open_clip:{spec} could not be loaded ({error}): where there is no hub, give a local "
                f"file, open_clip:{model_name}//path/to/weights.safetensors",
                "encoder",
            ) from error
        model.eval()
        self._tokenizer = open_clip.get_tokenizer(model_name)
        if device.kind == "cpu":
            torch.set_num_threads(device.threads)
        self._device = device
        self.name = f"open_clip:{spec}"
        self._size, self._streams = device.batch(cpu=8, cuda=256), device.streams
        self.batch = self._size * device.together
        self.context_length = int(self._tokenizer.context_length)
        image_size = model.visual.image_size
        self.shrink_to = max(image_size) if isinstance(image_size, tuple) else int(image_size)
        *steps, _, normalize = preprocess.transforms  # the last two: to a tensor of 0..1, and to a mean of 0
        self.prepare = partial(_prepared, steps)
        self.decode = JpegDecoder(partial(_scaled, steps)) if device.kind == "cuda" else None
        self.fingerprint = make_fingerprint(
            model=model_name,
            weights=weights_hash(model.state_dict().items()),
            preprocessing=f"{preprocess};tokens={self.context_length}",
        )
        of_images, of_texts = self._towers(model, normalize)
        blank = self.prepare(Image.new("RGB", (self.shrink_to, self.shrink_to)))
        self._of_images, self._of_texts = self._on_torch(of_images), self._on_torch(of_texts)
        self.dim = self._of_images(np.stack([blank])).shape[1]
        if device.kind == "cpu":
            tokens = self._tokenizer(["a red shoe", ""]).numpy()
            try:
                faster = self._on_openvino("image", of_images, np.stack([blank, blank + 50]))
                self._of_texts = self._on_openvino("text", of_texts, tokens)
                self._of_images = faster
            except Exception as error:  # of some of the many models: then it is slower
                log_slow(self.name, error)

    def encode_images(self, prepared: Sequence[Prepared]) -> Vectors:
        """n arrays [side, side, 3] to [n, dim] unit rows."""
        return in_batches(prepared, self._size, self.dim, lambda batch: self._of_images(stacked(batch)), self._streams)

    def encode_texts(self, texts: Sequence[str]) -> EncodedTexts:
        """n texts to [n, dim] unit rows; CLIP reads 77 tokens, the start and end marks included."""
        truncated = sum(self._length(text) > self.context_length for text in texts)
        tokens = self._tokenizer(list(texts)).numpy()  # [n, context_length]
        rows = list(tokens)
        vectors = in_batches(rows, self._size, self.dim, lambda batch: self._of_texts(np.stack(batch)), self._streams)
        return EncodedTexts(vectors, truncated)

    def _length(self, text: str) -> int:
        """How many tokens a text has, the marks included."""
        if hasattr(self._tokenizer, "encode"):  # open_clip's own tokenizer; others wrap one of transformers
            return len(self._tokenizer.encode(text)) + 2
        return len(self._tokenizer.tokenizer(text)["input_ids"])

    def _on_torch(self, tower: "Module") -> Callable[..., Vectors]:
        import torch

        if self._device.kind == "cuda":
            model = GpuModel(tower, torch.bfloat16)
            return lambda batch: unit_rows(model(batch=batch))

        def run(batch: NDArray[Any]) -> Vectors:
            with torch.inference_mode():
                return unit_rows(tower(torch.from_numpy(batch)).numpy())

        return run

    def _on_openvino(self, name: str, tower: "Module", example: NDArray[Any]) -> Callable[[NDArray[Any]], Vectors]:
        import torch

        def make() -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
            return tower, {"batch": torch.from_numpy(example)}, {"batch": {0: torch.export.Dim("n")}}

        model = CpuModel(f"clip-{name}-{self.fingerprint}", self._streams, make)
        return lambda batch: unit_rows(model(batch=batch))

    @staticmethod
    def _towers(model: Any, normalize: Any) -> "tuple[Module, Module]":
        """uint8 pixels [n, height, width, 3], and tokens [n, context_length], to vectors [n, dim].

        Scaling the pixels is part of the model: a quarter of the bytes to move, and no work for those who decode.
        """
        import torch

        class OfImages(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                pixels = batch.permute(0, 3, 1, 2).float() / 255  # [n, 3, height, width]
                mean, std = (  # no buffers, which would be rounded with the weights
                    torch.tensor(each, device=batch.device).reshape(3, 1, 1) for each in (normalize.mean, normalize.std)
                )
                pixels = ((pixels - mean) / std).to(next(model.visual.parameters()).dtype)
                vectors: torch.Tensor = self.model.encode_image(pixels)
                return vectors

        class OfTexts(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                vectors: torch.Tensor = self.model.encode_text(batch)
                return vectors

        return OfImages(), OfTexts()

    @staticmethod
    def _check_weights_known(model_name: str, pretrained: str) -> None:
        """A path must exist and a tag be known, or open_clip would go on with random weights or an unclear error."""
        import open_clip

        looks_like_path = "/" in pretrained or "." in pretrained
        if looks_like_path and not Path(pretrained).is_file():
            raise Missing(f"there is no weights file {pretrained!r}", "encoder")
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        if not looks_like_path and pretrained not in tags:
            raise BadInput(f"open_clip knows no weights {pretrained!r} for {model_name}: {', '.join(tags)}", "encoder")


def _prepared(steps: Sequence[Callable[[Image.Image], Image.Image]], image: Image.Image) -> Prepared:
    """RGB image to uint8 [side, side, 3], by open_clip's own steps."""
    for step in steps:
        image = step(image)
    return np.asarray(image)


def _scaled(steps: Sequence[Callable[["Tensor"], "Tensor"]], images: "Tensor") -> "Tensor":
    """The same for images of one size [n, 3, height, width] on a card, which are RGB already."""
    from torch.nn import Module

    for step in steps:
        if isinstance(step, Module):  # others make a picture of Pillow RGB
            images = step(images)
    return images.permute(0, 2, 3, 1)
