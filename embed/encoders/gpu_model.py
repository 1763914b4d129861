"""CUDA GPUs: models in half precision."""

from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embed.encoders.encoder import Vectors

if TYPE_CHECKING:
    from torch import Tensor, cuda, dtype
    from torch.nn import Module

STREAMS = 2  # calls at a time: while one computes, the other copies


class GpuModel:
    """A module with named inputs and one output [n, dim], on the GPU in precision `half`; thread-safe."""

    def __init__(self, module: "Module", half: "dtype") -> None:
        import torch

        # Not channels-last: it is 1.7 times as fast for EfficientNet on an H200, but cuDNN then searches kernels for
        # seconds, in every thread and for every batch size, which is too long for a query with one photo.
        self._module = module.eval().to("cuda", half)
        self._idle: SimpleQueue[cuda.Stream] = SimpleQueue()
        for _ in range(STREAMS):
            self._idle.put(torch.cuda.Stream())  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()  # other streams do not wait for the one that converts the weights

    def __call__(self, **inputs: NDArray[Any]) -> Vectors:
        import torch

        stream = self._idle.get()
        try:
            with torch.inference_mode(), torch.cuda.stream(stream):
                vectors: Vectors = (
                    self._module(**{name: _to_gpu(values) for name, values in inputs.items()}).float().cpu().numpy()
                )
        finally:
            self._idle.put(stream)
        return vectors


def _to_gpu(values: NDArray[Any]) -> "Tensor":
    """Copy an array to the GPU through pinned memory, without waiting."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).pin_memory().cuda(non_blocking=True)
