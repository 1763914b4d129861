"""The device that a model runs on, with its precision and batch size, chosen by the machine's hardware."""

import os
from dataclasses import dataclass
from pathlib import Path

from embed.errors import BadInput


@dataclass(frozen=True)
class Device:
    """A device: `kind` is `cuda` or `cpu`; `threads` is the number of CPU threads that a model may use."""

    kind: str
    threads: int

    @property
    def half(self) -> bool:
        """Whether PyTorch runs models in bf16: only on GPU, where it is faster and accurate enough."""
        return self.kind == "cuda"

    @property
    def streams(self) -> int:
        """Number of batches that are encoded at once: on CPU one per thread."""
        return self.threads if self.kind == "cpu" else 1

    @property
    def together(self) -> int:
        """Number of batches to pass to an encoder at once, so that few streams wait for the last one."""
        return 4 * self.streams if self.streams > 1 else 1

    def set_torch_threads(self) -> None:
        """Let torch use the threads of a CPU in the calling thread, also after those that read photos have kept one."""
        if self.kind == "cpu":
            import torch

            torch.set_num_threads(self.threads)

    def batch(self, cpu: int, cuda: int) -> int:
        """Return the batch size for this kind of device."""
        return cuda if self.kind == "cuda" else cpu


def choose_device(requested: str = "auto", threads: int = 0) -> Device:
    """Choose a device: `auto` takes a CUDA GPU if there is one. `threads` 0 means all cores; raises BadInput."""
    threads = threads or len(os.sched_getaffinity(0))
    if requested not in {"auto", "cpu", "cuda"}:
        raise BadInput(f"device {requested!r} is unknown: use auto, cpu or cuda", "device")
    if requested == "cpu" or (requested == "auto" and not _has_nvidia_node()):
        return Device("cpu", threads)
    import torch

    if torch.cuda.is_available():
        return Device("cuda", threads)
    if requested == "cuda":
        raise BadInput("device 'cuda' is not available: torch finds no CUDA GPU; use auto or cpu", "device")
    return Device("cpu", threads)


def _has_nvidia_node() -> bool:
    """Return whether the machine has an NVIDIA GPU, without importing torch, which takes seconds."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
