"""A torch module on CPU: exported to ONNX once, into the cache, and run from there by OpenVINO.

In bf16 where the processor has it, which is twice as fast as fp32 and leaves a cosine of 0.9999 for transformers and of
0.995 for EfficientNet-Lite0. One thread to a batch, and as many batches at once as there are threads: two cores that
share one batch wait for each other.
"""

import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
from numpy.typing import NDArray

from embed.encoders.encoder import Vectors, unit_rows

if TYPE_CHECKING:
    from torch.nn import Module

# The first to ask for a dtype fills a table inside OpenVINO, and two threads that are first together wait for each
# other for ever (OpenVINO 2026.4). A module is imported by one thread only.
openvino.Type.f32.to_dtype()


def log_slow(name: str, error: Exception) -> None:
    """Say that a model that OpenVINO cannot have is run by torch."""
    reason = str(error).strip().split("\n")[0][:300]
    logging.getLogger("vetrina").warning("%s cannot be exported and runs in torch, more slowly: %s", name, reason)


def cache_folder() -> Path:
    """Where exported models are kept: `VETRINA_CACHE`, or `vetrina` in the user's cache folder."""
    configured = os.environ.get("VETRINA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(configured) if configured else Path(base) / "vetrina"


class CpuModel:
    """A model with named inputs and one output [n, dim]; exported by `make` when the cache has no sound copy.

    `make` returns the torch module, its example inputs and, for each input, which axes vary. Safe in several threads;
    `streams` of them are answered at a time.
    """

    def __init__(
        self,
        key: str,
        streams: int,
        make: Callable[[], "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]"],
    ) -> None:
        path = cache_folder() / f"{key}.onnx"
        if not _is_sound(path):
            _export(path, *make())
        compiled = _compiled(path, streams, half=True)
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, **inputs: NDArray[Any]) -> Vectors:
        request = self._idle.get()
        try:
            found = request.infer(inputs, share_inputs=True)
            return np.array(found[0], np.float32)
        finally:
            self._idle.put(request)


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
    compiled = _compiled(path, 1, half=False)
    exported = unit_rows(compiled({name: tensor.numpy() for name, tensor in inputs.items()})[0])
    cosine = float((expected * exported).sum(1).min())
    if not cosine > 1 - 1e-4:
        raise RuntimeError(f"the ONNX export of {path.stem} gives other vectors than its model (cosine {cosine:.4f})")


def _compiled(path: Path, streams: int, half: bool) -> openvino.CompiledModel:
    """The model for so many batches at once; in bf16 if that is wanted and the processor has it."""
    core = openvino.Core()
    bf16 = half and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    asked = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": streams,
        "NUM_STREAMS": streams,
        # Each process would pin its threads to the first cores, and several serve beside each other.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(str(path), "CPU", asked)
