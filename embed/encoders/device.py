"""Where a model runs: device, precision and batch size, chosen by what the machine has."""

import os
from dataclasses import dataclass
from pathlib import Path

from embed.errors import BadInput


@dataclass(frozen=True)
class Device:
    """`kind` is `cuda` or `cpu`; `threads` is how many CPU threads one model may use."""

    kind: str
    threads: int

    @property
    def half(self) -> bool:
        """Whether PyTorch runs models in bf16: on GPU only, where it is both faster and accurate enough."""
        return self.kind == "cuda"

    @property
    def streams(self) -> int:
        """How many batches are encoded at once: on CPU one to a thread."""
        return self.threads if self.kind == "cpu" else 1

    @property
    def together(self) -> int:
        """How many batches an encoder is best given together: few of the streams then wait for the last one."""
        return 4 * self.streams if self.streams > 1 else 1

    def batch(self, cpu: int, cuda: int) -> int:
        return cuda if self.kind == "cuda" else cpu


def choose_device(wanted: str = "auto", threads: int = 0) -> Device:
    """The device named by `wanted`: `auto` takes a CUDA card where there is one. `threads` 0 means all cores."""
    threads = threads or len(os.sched_getaffinity(0))
    if wanted not in {"auto", "cpu", "cuda"}:
        raise BadInput(f"device {wanted!r} is not known: use auto, cpu or cuda", "device")
    if wanted == "cpu" or (wanted == "auto" and not _has_nvidia_node()):
        return Device("cpu", threads)
    import torch

    if torch.cuda.is_available():
        return Device("cuda", threads)
    if wanted == "cuda":
        raise BadInput("device 'cuda' was asked for, but torch sees no CUDA card here: use auto or cpu", "device")
    return Device("cpu", threads)


def _has_nvidia_node() -> bool:
    """Importing torch costs seconds, which a machine without any card need not spend to learn that it has none."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
