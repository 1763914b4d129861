"""Use a CUDA GPU for k-means and search where FAISS supports it, a GPU is there, and the index fits its memory.

The CPU does the rest: searches with a filter (FAISS has no selectors on GPUs), index types without a GPU version
(graphs, fast scan, RaBitQ), and searches for more than MAX_RESULTS results. Files always hold the CPU index, which
also answers whenever the GPU cannot.
"""

import logging
from functools import cache
from typing import Any, Protocol

import faiss

log = logging.getLogger("vetrina")

MAX_RESULTS = 1024  # results of one query that FAISS can return from a GPU

_enabled = True


class GpuDevice(Protocol):
    """A device that can hold an index."""

    def upload(self, index: Any) -> Any | None:
        """Copy an index to the device; returns None if its type is not supported or its memory is too small."""


def set_gpu_enabled(enabled: bool) -> None:
    """Set whether this process may use a GPU."""
    global _enabled  # noqa: PLW0603
    _enabled = enabled


def find_gpu() -> GpuDevice | None:
    """Return the GPU, or None if there is none to use; `gpu_unavailable_reason` tells why."""
    return None if gpu_unavailable_reason() else _first_cuda_device()


def gpu_unavailable_reason() -> str:
    """Return why no GPU is used; empty if one is used."""
    if not _enabled:
        return "the setting device is cpu"
    if not hasattr(faiss, "StandardGpuResources"):
        return "faiss-cpu is installed: install the extra gpu to use a CUDA GPU"
    if not faiss.get_num_gpus():
        return "faiss-gpu finds no CUDA GPU"
    return ""


@cache
def _first_cuda_device() -> "_CudaDevice":
    return _CudaDevice()


class _CudaDevice:
    """The first CUDA GPU."""

    def __init__(self) -> None:
        self._resources = faiss.StandardGpuResources()

    def upload(self, index: Any) -> Any | None:
        try:
            return faiss.index_cpu_to_gpu(self._resources, 0, index)
        except RuntimeError as error:
            log.info("an index stays on the CPU: %s", str(error).splitlines()[0])
            return None
