"""A CUDA card: models in half precision, and JPEGs that are decoded and scaled where the model runs.

Cores decode some hundred photos a second each, a card takes ten thousand and more: nvJPEG, through torchvision,
decodes as many.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embed.encoders.encoder import Prepared, Vectors

if TYPE_CHECKING:
    from torch import Tensor, dtype
    from torch.nn import Module


class GpuModel:
    """A module with named inputs and one output [n, dim], on the card in precision `half`."""

    def __init__(self, module: "Module", half: "dtype") -> None:
        # Not channels-last, which is 1.7 times as fast for EfficientNet on an H200 but for which cuDNN looks for its
        # kernels for seconds, anew in every thread and for every size of a batch: too long for who asks with one photo.
        self._module = module.eval().to("cuda", half)

    def __call__(self, **inputs: "NDArray[Any] | Tensor") -> Vectors:
        import torch

        with torch.inference_mode():
            vectors: Vectors = self._module(**{name: on_gpu(of) for name, of in inputs.items()}).float().cpu().numpy()
        return vectors


def on_gpu(values: "NDArray[Any] | Tensor") -> "Tensor":
    """An array copied to the card, through pinned memory; a tensor as it is."""
    import torch

    return torch.from_numpy(values).pin_memory().cuda(non_blocking=True) if isinstance(values, np.ndarray) else values


def stacked(prepared: "Sequence[Prepared | Tensor]") -> "NDArray[Any] | Tensor":
    """Prepared images [n, height, width, 3]: on the card if any is there."""
    import torch

    at = next((each.device for each in prepared if isinstance(each, torch.Tensor)), None)
    if at is None:
        return np.stack(prepared)
    return torch.stack([each if isinstance(each, torch.Tensor) else torch.tensor(each, device=at) for each in prepared])


class JpegDecoder:
    """JPEGs that `embed.images.is_plain_jpeg` lets through, decoded on a `device` and scaled there by `scale`.

    `scale` takes images of one size [n, 3, height, width], uint8, to [n, side, side, 3]. Its pixels differ from those
    of Pillow by 0.1 of 255 in the mean, as colours are spread over pixels in another way.
    """

    def __init__(self, scale: "Callable[[Tensor], Tensor]", device: str = "cuda") -> None:
        self._scale, self._device = scale, device

    def __call__(self, coded: Sequence[bytes]) -> "list[Tensor | None]":
        """Prepared images [side, side, 3]; None for one that is not decoded here."""
        import torch

        prepared: list[Tensor | None] = [None] * len(coded)
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        with torch.inference_mode():
            decoded = self._decode(coded)
            for number, image in enumerate(decoded):
                if image is not None:
                    alike[tuple(image.shape)].append(number)
            for numbers in alike.values():
                scaled = self._scale(torch.stack([image for at in numbers if (image := decoded[at]) is not None]))
                for number, image in zip(numbers, scaled, strict=True):
                    prepared[number] = image
        return prepared

    def _decode(self, coded: Sequence[bytes]) -> "list[Tensor | None]":
        """Each as [3, height, width]. One that cannot be decoded spoils all that are decoded with it."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        tensors = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in coded]
        try:
            with warnings.catch_warnings():
                # torchvision 0.29 points to torchcodec for this; the pinned versions all have it.
                warnings.simplefilter("ignore", DeprecationWarning)
                return list(decode_jpeg(tensors, ImageReadMode.RGB, self._device))
        except RuntimeError:
            return [None] if len(coded) == 1 else [image for each in coded for image in self._decode([each])]
