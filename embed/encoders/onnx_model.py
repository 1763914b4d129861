"""ONNX Runtime on CPU: a torch module exported once into the cache, and run from there."""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
from numpy.typing import NDArray

from embed.encoders.encoder import Vectors, unit_rows

if TYPE_CHECKING:
    from torch.nn import Module


def cache_folder() -> Path:
    """Where exported models are kept: `VETRINA_CACHE`, or `vetrina` in the user's cache folder."""
    configured = os.environ.get("VETRINA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(configured) if configured else Path(base) / "vetrina"


class OnnxModel:
    """A model with named inputs and one output [n, dim]; exported by `make` when the cache has no sound copy.

    `make` returns the torch module, its example inputs and, for each input, which axes vary. `keeps_memory` lets it
    keep what a batch took for the next: of photos that saves an eighth of the time, of texts nothing, and as these are
    of any length and come from many threads, it would grow for long.
    """

    def __init__(
        self,
        key: str,
        threads: int,
        make: Callable[[], "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]"],
        keeps_memory: bool,
    ) -> None:
        path = cache_folder() / f"{key}.onnx"
        if not _is_sound(path):
            _export(path, *make())
        self._runtime = _open(path, threads, keeps_memory)

    def __call__(self, **inputs: NDArray[Any]) -> Vectors:
        output: Vectors = self._runtime.run(None, inputs)[0]
        return output


def _is_sound(path: Path) -> bool:
    """Whether the export is there and is, byte for byte, what was written."""
    digest = path.with_suffix(".sha256")
    return path.exists() and digest.exists() and digest.read_text() == hashlib.sha256(path.read_bytes()).hexdigest()


def _export(path: Path, module: "Module", inputs: dict[str, Any], varying: dict[str, dict[int, Any]]) -> None:
    """Export beside the target and move it there, so that two processes never see half a file."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        fresh = Path(folder) / path.name
        torch.onnx.export(
            module.eval(),
            (),
            str(fresh),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=["vectors"],
            dynamic_shapes=varying,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        _check_equal(fresh, module, inputs)
        digest = hashlib.sha256(fresh.read_bytes()).hexdigest()
        fresh.replace(path)
        (Path(folder) / "sha256").write_text(digest)
        (Path(folder) / "sha256").replace(path.with_suffix(".sha256"))


def _check_equal(path: Path, module: "Module", inputs: dict[str, Any]) -> None:
    """An export that does not give the module's own vectors must never get into the cache."""
    import torch

    with torch.inference_mode():
        expected = unit_rows(module(**inputs).numpy())
    exported = unit_rows(
        _open(path, 1, keeps_memory=False).run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
    )
    cosine = float((expected * exported).sum(1).min())
    if not cosine > 1 - 1e-4:
        raise RuntimeError(f"the ONNX export of {path.stem} gives other vectors than its model (cosine {cosine:.4f})")


def _open(path: Path, threads: int, keeps_memory: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = keeps_memory
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
