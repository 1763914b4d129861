"""Runs a torch module on CPU: it is exported once to ONNX, into a cache, and run from there by OpenVINO.

It runs in bf16 if the processor supports it, twice as fast as fp32 with a cosine to it of 0.9999 for transformers and
0.995 for EfficientNet-Lite0. Each batch has one thread, and as many batches run at once as there are threads: two cores
that share a batch wait for each other.
"""

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

from embed.durable import move_into_place, sha256, write_file
from embed.encoders.encoder import Vectors, unit_rows

if TYPE_CHECKING:
    from torch.nn import Module

# The first use of a dtype fills a table inside OpenVINO, and two threads that do so at once deadlock (OpenVINO 2026.4).
# So it is done on import, which runs in one thread.
openvino.Type.f32.to_dtype()


def warn_slow_model(name: str, error: Exception) -> None:
    """Log that a model cannot be exported to OpenVINO and runs in torch."""
    reason = str(error).strip().split("\n")[0][:300]
    logging.getLogger("vetrina").warning("%s cannot be exported and runs in torch, more slowly: %s", name, reason)


def cache_folder() -> Path:
    """Return the folder of exported models: `VETRINA_CACHE`, or `vetrina` in the user's cache folder."""
    configured = os.environ.get("VETRINA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(configured) if configured else Path(base) / "vetrina"


class CpuModel:
    """A model with named inputs and one output [n, dim]. It is exported if the cache has no intact copy.

    `make` returns the torch module, its example inputs and, for each input, which axes vary. Thread-safe; `streams`
    calls run at a time.
    """

    def __init__(
        self,
        key: str,
        streams: int,
        make: Callable[[], "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]"],
    ) -> None:
        path = cache_folder() / f"{key}.onnx"
        if not _is_intact(path):
            _export(path, *make())
        compiled = _compiled(path, streams, half=True)
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, **inputs: NDArray[Any]) -> Vectors:
        request = self._idle.get()
        try:
            outputs = request.infer(inputs, share_inputs=True)
            return np.array(outputs[0], np.float32)
        finally:
            self._idle.put(request)


def _is_intact(path: Path) -> bool:
    """Return whether the export exists and is, byte for byte, what was written."""
    digest = path.with_suffix(".sha256")
    return path.exists() and digest.exists() and digest.read_text() == sha256(path)


def _export(path: Path, module: "Module", inputs: dict[str, Any], varying: dict[str, dict[int, Any]]) -> None:
    """Export to a temporary file and move it to `path`, so that no process sees an incomplete file."""
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
        digest = sha256(fresh)
        move_into_place(fresh, path)
        write_file(path.with_suffix(".sha256"), digest.encode())


def _check_equal(path: Path, module: "Module", inputs: dict[str, Any]) -> None:
    """Raise RuntimeError if an export does not give the module's vectors; such an export must not enter the cache."""
    import torch

    with torch.inference_mode():
        expected = unit_rows(module(**inputs).numpy())
    compiled = _compiled(path, 1, half=False)
    exported = unit_rows(compiled({name: tensor.numpy() for name, tensor in inputs.items()})[0])
    cosine = float((expected * exported).sum(1).min())
    if not cosine > 1 - 1e-4:
        raise RuntimeError(f"the ONNX export of {path.stem} differs from its model (cosine {cosine:.4f})")


def _compiled(path: Path, streams: int, half: bool) -> openvino.CompiledModel:
    """Compile a model for `streams` batches at once, in bf16 if `half` and the processor supports it."""
    core = openvino.Core()
    bf16 = half and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": streams,
        "NUM_STREAMS": streams,
        # Otherwise each of several service processes would pin its threads to the first cores.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(str(path), "CPU", options)
