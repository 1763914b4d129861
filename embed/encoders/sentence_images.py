"""Encoders of photos and texts in one space, from multimodal models of sentence-transformers.

Photos are scaled and cropped by the model's own image processor. Where that gives photos of one size, as in CLIP, it
does so in the readers, and the model is exported; else the library takes the photos as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from embed.encoders.agreement import example_images, measure_agreement
from embed.encoders.cpu_model import CpuModel, Run, warn_slow_model
from embed.encoders.device import Device
from embed.encoders.encoder import Prepared, Vectors, encode_in_batches, unit_rows
from embed.encoders.encoder_options import EncoderOptions
from embed.encoders.sentence import SentenceEncoder
from embed.encoders.sentence_export import make_image_module
from embed.encoders.sentence_model import SentenceModel
from embed.errors import BadInput
from embed.images.preprocessing import Pixels

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

MAX_SIDE = 2048  # pixels of a photo that the library takes as it is; larger ones are scaled down
SIZES = ((48, 64), (300, 200))  # height and width of photos that preprocessing is compared on
CLOSE = 1e-3  # difference of normalized pixels; one level of 255 is about 1.5e-2


@dataclass(frozen=True)
class ModelPreprocessing:
    """Scales and crops a photo by a model's image processor. The model's export does the rest: `normalized`."""

    processor: Any

    @property
    def side(self) -> int:
        """Pixels of a side, beyond which a larger photo has no effect."""
        settings = self.processor.to_dict()
        sides = {**(settings.get("size") or {}), **(settings.get("crop_size") or {})}.values()
        return max(int(side) for side in sides if side)

    def __str__(self) -> str:
        return f"the model's own ({type(self.processor).__name__}, {self.side} pixels)"

    def __call__(self, pixels: Pixels) -> Pixels:
        """Scale and crop an image [h, w, 3] to the model's size."""
        made = self.processor(
            images=[Image.fromarray(pixels)], do_rescale=False, do_normalize=False, return_tensors="pt"
        )
        return np.ascontiguousarray(made["pixel_values"][0].permute(1, 2, 0).numpy())

    def normalized(self, batch: "torch.Tensor") -> "torch.Tensor":
        """Return prepared photos [n, height, width, 3] as the model takes them, [n, 3, height, width]."""
        import torch

        how = self.processor
        pixels = batch.permute(0, 3, 1, 2).float() * (how.rescale_factor if how.do_rescale else 1)
        if not how.do_normalize:
            return pixels
        mean, std = (
            torch.tensor(each, device=batch.device).reshape(-1, 1, 1) for each in (how.image_mean, how.image_std)
        )
        return (pixels - mean) / std


@dataclass(frozen=True)
class BoundedPhotos:
    """Keeps photos as they are, unless they are larger than MAX_SIDE; the library does the rest."""

    side: int = MAX_SIDE // 2  # JPEGs are decoded to at least twice this

    def __str__(self) -> str:
        return f"the library's, of photos of at most {MAX_SIDE} pixels a side"

    def __call__(self, pixels: Pixels) -> Pixels:
        """Scale an image [h, w, 3] down to MAX_SIDE pixels of its longer side."""
        if max(pixels.shape) <= MAX_SIDE:
            return pixels
        image = Image.fromarray(pixels)
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)
        return np.asarray(image)


class MultimodalSentenceEncoder(SentenceEncoder):
    """Encodes photos as the library's `encode_document`, into the space of the texts."""

    def __init__(self, spec: str, device: Device, options: EncoderOptions | None) -> None:
        super().__init__(spec, device, options)
        if not self._model.library.supports("image"):
            raise BadInput(f"st:{spec} encodes texts only: write it as text_encoder", "image_encoder")
        fixed = _find_preprocessing(self._model)
        self.prepare: ModelPreprocessing | BoundedPhotos = fixed or BoundedPhotos()
        self.shrink_to = self.prepare.side
        self._device = device
        self._photos, self._photo_streams = device.batch(cpu=8, cuda=256 if fixed else 16), 1
        self.batch = self._photos * device.together
        self._run_photos: Callable[[Sequence[Prepared]], Vectors] = self._photos_in_library
        place = self._in_library
        if fixed:
            module = make_image_module(self._model, fixed.normalized)
            self._run_photos = partial(_run_stacked, partial(_run_in_torch, module))
            if device.kind == "cpu":
                try:
                    exported = self._export_photos(module, fixed)
                except Exception as error:  # some models cannot be exported, or then give other vectors
                    warn_slow_model(f"the image model of {self.name}", error)
                else:
                    place, self._photo_streams = exported.details, self._streams
                    self._run_photos = partial(_run_stacked, exported)
        self.details["preprocessing"] = str(self.prepare)
        self.details["runs in"] = f"photos: {place}; texts: {self.details['runs in']}"

    def encode_images(self, prepared: Sequence[Prepared]) -> Vectors:
        """Encode n prepared photos as unit rows [n, dim]."""
        self._device.set_torch_threads()
        return encode_in_batches(prepared, self._photos, self.dim, self._run_photos, self._photo_streams)

    def _photos_in_library(self, photos: Sequence[Pixels]) -> Vectors:
        images = [Image.fromarray(pixels) for pixels in photos]
        return self._model.encode(images, self._model.document, self._photos)

    def _export_photos(self, module: "Module", fixed: ModelPreprocessing) -> CpuModel:
        import torch

        photos = list(example_images(*SIZES[0]))
        prepared = np.stack([fixed(pixels) for pixels in photos])

        def make() -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
            return module, {"batch": torch.from_numpy(prepared)}, {"batch": {0: torch.export.Dim("n")}}

        def measure(run: Run) -> float:
            return measure_agreement(run(batch=prepared), self._photos_in_library(photos))

        return CpuModel(f"sentence-image-{self._model.key}", self._streams, make, measure)


def _find_preprocessing(model: SentenceModel) -> ModelPreprocessing | None:
    """Return the preprocessing of a model whose photos have one size; None if it is not that of the library."""
    import torch

    module = model.input_module(model.document, "image")
    sizes = set()
    try:
        preprocessing = ModelPreprocessing(getattr(module.processor, "image_processor", module.processor))
        for height, width in SIZES:
            photo = example_images(height, width)[0]
            prepared = preprocessing(photo)
            features = model.preprocess([Image.fromarray(photo)], model.document)
            expected = features.pop("pixel_values")
            difference = preprocessing.normalized(torch.from_numpy(prepared[None])) - expected
            others = [value for value in features.values() if isinstance(value, torch.Tensor)]
            if prepared.dtype != np.uint8 or others or not difference.abs().max() < CLOSE:
                return None
            sizes.add(prepared.shape)
    except Exception:  # each processor takes and gives something else; the library knows all
        return None
    return preprocessing if len(sizes) == 1 else None


def _run_stacked(run: Run, prepared: Sequence[Pixels]) -> Vectors:
    return unit_rows(run(batch=np.stack(prepared)))


def _run_in_torch(module: "Module", batch: NDArray[Any]) -> Vectors:
    import torch

    with torch.inference_mode():
        vectors: Vectors = module(torch.from_numpy(batch).to(next(module.parameters()).device)).float().cpu().numpy()
    return vectors
