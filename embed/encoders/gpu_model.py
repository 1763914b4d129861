"""CUDA GPUs: models in half precision, and JPEGs decoded and scaled on the GPU.

A CPU core decodes some hundred photos per second, a GPU encodes ten thousand and more; nvJPEG, through torchvision,
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
    """A module with named inputs and one output [n, dim], on the GPU in precision `half`."""

    def __init__(self, module: "Module", half: "dtype") -> None:
        # Not channels-last: it is 1.7 times as fast for EfficientNet on an H200, but cuDNN then searches kernels for
        # seconds, in every thread and for every batch size, which is too long for a query with one photo.
        self._module = module.eval().to("cuda", half)

    def __call__(self, **inputs: "NDArray[Any] | Tensor") -> Vectors:
        import torch

        with torch.inference_mode():
            vectors: Vectors = (
                self._module(**{name: to_gpu(values) for name, values in inputs.items()}).float().cpu().numpy()
            )
        return vectors


def to_gpu(values: "NDArray[Any] | Tensor") -> "Tensor":
    """Copy an array to the GPU, through pinned memory; a tensor stays as it is."""
    import torch

    return torch.from_numpy(values).pin_memory().cuda(non_blocking=True) if isinstance(values, np.ndarray) else values


def stack_images(prepared: "Sequence[Prepared | Tensor]") -> "NDArray[Any] | Tensor":
    """Stack prepared images to [n, height, width, 3], on the GPU if any of them is there."""
    import torch

    device = next((each.device for each in prepared if isinstance(each, torch.Tensor)), None)
    if device is None:
        return np.stack(prepared)
    return torch.stack(
        [each if isinstance(each, torch.Tensor) else torch.tensor(each, device=device) for each in prepared]
    )


class JpegDecoder:
    """Decodes JPEGs accepted by `embed.images.is_plain_jpeg` on a device, and scales them there.

    `scale` converts images of one size [n, 3, height, width], uint8, to [n, side, side, 3]. The pixels differ from
    Pillow's by 0.1 of 255 on average, because chroma is upsampled differently.
    """

    def __init__(self, scale: "Callable[[Tensor], Tensor]", device: str = "cuda") -> None:
        self._scale, self._device = scale, device

    def __call__(self, coded: Sequence[bytes]) -> "list[Tensor | None]":
        """Return prepared images [side, side, 3]; None for an image that cannot be decoded."""
        import torch

        prepared: list[Tensor | None] = [None] * len(coded)
        same_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        with torch.inference_mode():
            decoded = self._decode(coded)
            for index, image in enumerate(decoded):
                if image is not None:
                    same_size[tuple(image.shape)].append(index)
            for indices in same_size.values():
                scaled = self._scale(torch.stack([image for at in indices if (image := decoded[at]) is not None]))
                for index, image in zip(indices, scaled, strict=True):
                    prepared[index] = image
        return prepared

    def _decode(self, coded: Sequence[bytes]) -> "list[Tensor | None]":
        """Decode each image to [3, height, width]. An invalid one fails its whole batch, so that batch is split."""
        import torch
        from torchvision.io import ImageReadMode, decode_jpeg

        tensors = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in coded]
        try:
            with warnings.catch_warnings():
                # torchvision 0.29 recommends torchcodec instead; all pinned versions have this function.
                warnings.simplefilter("ignore", DeprecationWarning)
                return list(decode_jpeg(tensors, ImageReadMode.RGB, self._device))
        except RuntimeError:
            return [None] if len(coded) == 1 else [image for each in coded for image in self._decode([each])]
