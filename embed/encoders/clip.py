"""CLIP from open_clip: one space for photos and texts.

On CPU both towers are exported once and run in OpenVINO; on a GPU they run in torch, in bf16.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embed.encoders.agreement import EXAMPLE_TEXTS, example_images
from embed.encoders.clip_model import ClipModel, load_clip
from embed.encoders.clip_source import find_clip
from embed.encoders.clip_v01 import load_clip_v01
from embed.encoders.cpu_model import CpuModel, warn_slow_model
from embed.encoders.device import Device
from embed.encoders.encoder import EncodedTexts, Prepared, Vectors, encode_in_batches, unit_rows
from embed.encoders.encoder_options import EncoderOptions
from embed.encoders.gpu_model import GpuModel

if TYPE_CHECKING:
    from torch.nn import Module

Run = Callable[[NDArray[Any]], Vectors]


class ClipEncoder:
    """A CLIP model by its name (see embed.encoders.clip_source); without options it encodes as version 0.1 did."""

    def __init__(self, spec: str, device: Device, options: EncoderOptions | None) -> None:
        self.name = f"open_clip:{spec}"
        self._clip = load_clip_v01(spec) if options is None else load_clip(find_clip(spec, options))
        device.set_torch_threads()
        self._device = device
        self._size, self._streams = device.batch(cpu=8, cuda=256), device.streams
        self.batch = self._size * device.together
        self.context_length = self._clip.context_length
        self.prepare = self._clip.prepare
        self.shrink_to = self.prepare.shrink_to
        self.fingerprint = self._clip.fingerprint
        image_tower, text_tower = _towers(self._clip)
        images = example_images(self.prepare.height, self.prepare.width)
        self._run_images, place = self._runner("image", image_tower, images)
        self._run_texts, text_place = self._runner("text", text_tower, self._clip.tokenize(EXAMPLE_TEXTS))
        self.details = {**self._clip.details, "runs in": f"images: {place}; texts: {text_place}"}
        self.dim = self._run_images(images[:1]).shape[1]

    def encode_images(self, prepared: Sequence[Prepared]) -> Vectors:
        """Encode n arrays [height, width, 3] as unit rows [n, dim]."""

        def run(batch: Sequence[Prepared]) -> Vectors:
            return self._run_images(np.stack(batch))

        return encode_in_batches(prepared, self._size, self.dim, run, self._streams)

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        """Encode n texts as unit rows [n, dim]; most CLIP models read 77 tokens, including the start and end tokens."""

        def run(batch: Sequence[NDArray[Any]]) -> Vectors:
            return self._run_texts(np.stack(batch))

        truncated = sum(self._clip.count_tokens(text) > self.context_length for text in texts)
        tokens = list(self._clip.tokenize(texts)) if texts else []
        return EncodedTexts(encode_in_batches(tokens, self._size, self.dim, run, self._streams), truncated)

    def _runner(self, kind: str, tower: "Module", examples: NDArray[Any]) -> tuple[Run, str]:
        """Return what runs a tower, and where it runs, for people."""
        import torch

        if self._device.kind == "cuda":
            on_gpu = GpuModel(tower, torch.bfloat16)
            return lambda batch: unit_rows(on_gpu(batch=batch)), "torch on GPU in bf16"

        def make() -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
            return tower, {"batch": torch.from_numpy(examples)}, {"batch": {0: torch.export.Dim("n")}}

        def in_torch(batch: NDArray[Any]) -> Vectors:
            self._device.set_torch_threads()
            with torch.inference_mode():
                return unit_rows(tower(torch.from_numpy(batch)).numpy())

        try:
            exported = CpuModel(f"clip-{kind}-{self.fingerprint}", self._streams, make)
        except Exception as error:  # some towers cannot be exported, or then give other vectors
            warn_slow_model(f"the {kind} tower of {self.name}", error)
            return in_torch, "torch in f32"
        return lambda batch: unit_rows(exported(batch=batch)), exported.details


def _towers(clip: ClipModel) -> "tuple[Module, Module]":
    """Make the two towers: uint8 pixels [n, height, width, 3] and tokens [n, context_length] to vectors [n, dim].

    The pixels are normalized in the model, so that a quarter of the bytes is moved and decoders have less work.
    """
    import torch

    class ImageTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = clip.module

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            pixels = clip.normalized(batch).to(next(self.model.visual.parameters()).dtype)
            vectors: torch.Tensor = self.model.encode_image(pixels)
            return vectors

    class TextTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = clip.module

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            vectors: torch.Tensor = self.model.encode_text(batch)
            return vectors

    return ImageTower(), TextTower()
