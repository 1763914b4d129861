"""CLIP from open_clip: one space for photos and texts, with weights by tag or from a local file.

On CPU both towers are exported once and run in OpenVINO; on a GPU they run in torch, in bf16.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embed.encoders.agreement import EXAMPLE_TEXTS, example_images
from embed.encoders.cpu_model import CpuModel, warn_slow_model
from embed.encoders.device import Device
from embed.encoders.encoder import (
    EncodedTexts,
    Prepared,
    Vectors,
    encode_in_batches,
    make_fingerprint,
    unit_rows,
    weights_hash,
)
from embed.encoders.encoder_options import EncoderOptions
from embed.encoders.gpu_model import GpuModel
from embed.errors import BadInput, Damaged, Missing
from embed.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch.nn import Module


class ClipEncoder:
    """The encoder `MODEL/PRETRAINED` of open_clip; PRETRAINED is a tag of open_clip or the path of a weights file."""

    def __init__(self, spec: str, device: Device, options: EncoderOptions | None = None) -> None:
        import open_clip
        import torch

        model_name, _, pretrained = spec.partition("/")
        if model_name not in open_clip.list_models():
            raise BadInput(f"open_clip has no model {model_name!r}: use one of open_clip.list_models()", "encoder")
        if not pretrained:
            raise BadInput(f"open_clip:{spec} has no weights: write MODEL/TAG or MODEL/FILE", "encoder")
        self._check_weights_exist(model_name, pretrained)
        try:
            model, _, preprocess = open_clip.create_model_and_transforms(
                model_name, pretrained=pretrained, device=device.kind, weights_only=True
            )
        except Exception as error:  # every reader of weights has its own errors
            if Path(pretrained).is_file():
                raise Damaged(f"{pretrained} does not hold the weights of {model_name} ({error})", "encoder") from error
            raise Missing(
                f"the weights of open_clip:{spec} cannot be loaded ({error}): without a hub, give a local file, "
                f"open_clip:{model_name}//path/to/weights.safetensors",
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
        normalize = preprocess.transforms[-1]
        how = model.visual.preprocess_cfg
        height, width = how["size"] if isinstance(how["size"], tuple) else (how["size"], how["size"])
        self.prepare = Preprocessing(height, width, how["resize_mode"], how["interpolation"], fill=how["fill_color"])
        self.shrink_to = self.prepare.shrink_to
        self.details: dict[str, str] = {}
        self.fingerprint = make_fingerprint(
            model=model_name,
            weights=weights_hash(model.state_dict().items()),
            preprocessing=f"{preprocess};tokens={self.context_length}",
        )
        image_tower, text_tower = self._towers(model, normalize)
        images = example_images(height, width)
        self._run_images, self._run_texts = self._run_in_torch(image_tower), self._run_in_torch(text_tower)
        self.dim = self._run_images(images[:1]).shape[1]
        if device.kind == "cpu":
            tokens = self._tokenizer(list(EXAMPLE_TEXTS)).numpy()
            try:
                faster = self._run_in_openvino("image", image_tower, images)
                self._run_texts = self._run_in_openvino("text", text_tower, tokens)
                self._run_images = faster
            except Exception as error:  # some models cannot be exported; they run more slowly
                warn_slow_model(self.name, error)

    def encode_images(self, prepared: Sequence[Prepared]) -> Vectors:
        """Encode n arrays [side, side, 3] as unit rows [n, dim]."""

        def run(batch: Sequence[Prepared]) -> Vectors:
            return self._run_images(np.stack(batch))

        return encode_in_batches(prepared, self._size, self.dim, run, self._streams)

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        """Encode n texts as unit rows [n, dim]; CLIP reads 77 tokens, including the start and end tokens."""

        def run(batch: Sequence[NDArray[Any]]) -> Vectors:
            return self._run_texts(np.stack(batch))

        truncated = sum(self._length(text) > self.context_length for text in texts)
        tokens = self._tokenizer(list(texts)).numpy()  # [n, context_length]
        vectors = encode_in_batches(list(tokens), self._size, self.dim, run, self._streams)
        return EncodedTexts(vectors, truncated)

    def _length(self, text: str) -> int:
        """Return the number of tokens of a text, including the start and end tokens."""
        if hasattr(self._tokenizer, "encode"):  # open_clip's tokenizer; others wrap one of transformers
            return len(self._tokenizer.encode(text)) + 2
        return len(self._tokenizer.tokenizer(text)["input_ids"])

    def _run_in_torch(self, tower: "Module") -> Callable[..., Vectors]:
        import torch

        if self._device.kind == "cuda":
            model = GpuModel(tower, torch.bfloat16)
            return lambda batch: unit_rows(model(batch=batch))

        def run(batch: NDArray[Any]) -> Vectors:
            with torch.inference_mode():
                return unit_rows(tower(torch.from_numpy(batch)).numpy())

        return run

    def _run_in_openvino(self, name: str, tower: "Module", example: NDArray[Any]) -> Callable[[NDArray[Any]], Vectors]:
        import torch

        def make() -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
            return tower, {"batch": torch.from_numpy(example)}, {"batch": {0: torch.export.Dim("n")}}

        model = CpuModel(f"clip-{name}-{self.fingerprint}", self._streams, make)
        return lambda batch: unit_rows(model(batch=batch))

    @staticmethod
    def _towers(model: Any, normalize: Any) -> "tuple[Module, Module]":
        """Make the two towers: uint8 pixels [n, height, width, 3] and tokens [n, context_length] to vectors [n, dim].

        The pixels are normalized in the model, so that a quarter of the bytes is moved and decoders have less work.
        """
        import torch

        class ImageTower(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                pixels = batch.permute(0, 3, 1, 2).float() / 255  # [n, 3, height, width]
                mean, std = (  # not buffers, which would be rounded with the weights
                    torch.tensor(each, device=batch.device).reshape(3, 1, 1) for each in (normalize.mean, normalize.std)
                )
                pixels = ((pixels - mean) / std).to(next(model.visual.parameters()).dtype)
                vectors: torch.Tensor = self.model.encode_image(pixels)
                return vectors

        class TextTower(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, batch: torch.Tensor) -> torch.Tensor:
                vectors: torch.Tensor = self.model.encode_text(batch)
                return vectors

        return ImageTower(), TextTower()

    @staticmethod
    def _check_weights_exist(model_name: str, pretrained: str) -> None:
        """Raise for a missing file or unknown tag; open_clip would use random weights or fail with an unclear error."""
        import open_clip

        looks_like_path = "/" in pretrained or "." in pretrained
        if looks_like_path and not Path(pretrained).is_file():
            raise Missing(f"weights file {pretrained!r} does not exist", "encoder")
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        if not looks_like_path and pretrained not in tags:
            raise BadInput(
                f"open_clip has no weights {pretrained!r} for {model_name}: use one of {', '.join(tags)}", "encoder"
            )
