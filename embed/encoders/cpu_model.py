"""Runs a torch module on CPU: it is exported once to ONNX, into a cache, and run from there by OpenVINO.

It runs in bf16 if the processor supports it and the vectors stay those of the module, else in fp32. Each batch has one
thread, and as many batches run at once as there are threads: two cores that share a batch wait for each other.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino
import orjson
from numpy.typing import NDArray

from embed.durable import move_into_place, sha256, write_file
from embed.encoders.agreement import MIN_EXACT, MIN_SERVED, measure_agreement
from embed.encoders.bf16_weights import round_convolutions
from embed.encoders.encoder import Vectors

if TYPE_CHECKING:
    from torch.nn import Module

# The first use of a dtype fills a table inside OpenVINO, and two threads that do so at once deadlock (OpenVINO 2026.4).
# So it is done on import, which runs in one thread.
openvino.Type.f32.to_dtype()
_log = logging.getLogger("vetrina")

Run = Callable[..., Vectors]  # arrays by the name of the input to vectors [n, dim]
Measure = Callable[[Run], float]  # returns the agreement of what runs


def warn_slow_model(name: str, error: Exception) -> None:
    """Log that a model cannot be exported to OpenVINO and runs in torch."""
    reason = str(error).strip().split("\n")[0][:300]
    _log.warning("%s cannot be exported and runs in torch, more slowly: %s", name, reason)


def cache_folder() -> Path:
    """Return the folder of exported models: `VETRINA_CACHE`, or `vetrina` in the user's cache folder."""
    configured = os.environ.get("VETRINA_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(configured) if configured else Path(base) / "vetrina"


class Disagreement(RuntimeError):
    """An export does not give the vectors of its module."""


class CpuModel:
    """A model with named inputs and one output [n, dim]. It is exported if the cache has no intact copy.

    `make` returns the torch module, example inputs of 16 rows and, for each input, which axes vary. The export is
    compared with the module on the examples, or as `measure` does, which gets a function that runs the export and is
    not thread-safe; raises Disagreement if its vectors are others. Thread-safe; `streams` calls run at a time.

    Attributes:
        precision: `bf16` or `f32`.
        agreement: Agreement of the vectors with the module's (see embed.encoders.agreement).
    """

    def __init__(
        self,
        key: str,
        streams: int,
        make: Callable[[], "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]"],
        measure: Measure | None = None,
    ) -> None:
        path = cache_folder() / f"{key}.onnx"
        measured = _read_measured(path)
        if measured is None:
            _raise_earlier_failure(path)
            measured = _export(path, *make(), measure)
        self.precision = next((each for each in _precisions() if measured.get(each, 0) >= LIMITS[each]), "f32")
        self.agreement = measured[self.precision]
        self._compiled = _compiled(path, streams, self.precision)
        self._idle: SimpleQueue[openvino.InferRequest] = SimpleQueue()
        for _ in range(streams):
            self._idle.put(self._compiled.create_infer_request())

    def __call__(self, **inputs: NDArray[Any]) -> Vectors:
        request = self._idle.get()
        try:
            outputs = request.infer(inputs, share_inputs=True)
            return np.array(outputs[0], np.float32)
        except RuntimeError:
            request = self._compiled.create_infer_request()  # one that failed refuses the next inputs too
            raise
        finally:
            self._idle.put(request)

    @property
    def details(self) -> str:
        """Where the model runs, and its agreement, for people."""
        return f"OpenVINO in {self.precision}, agreement with PyTorch {self.agreement:.5f}"


LIMITS = {"bf16": MIN_SERVED, "f32": MIN_EXACT}
"""Smallest agreement of a model in each precision, the fastest first."""


def _precisions() -> list[str]:
    """Return the precisions that the processor supports, the fastest first."""
    bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ["bf16", "f32"] if bf16 else ["f32"]


def _read_measured(path: Path) -> dict[str, float] | None:
    """Return the agreement of an export in each precision; None if the export is not, byte for byte, what was written.

    An export of another machine, or for another version of OpenVINO, is made and measured again.
    """
    try:
        facts = orjson.loads(path.with_suffix(".json").read_bytes())
        measured: dict[str, float] = facts["agreement"]
        here = facts["openvino"] == openvino.__version__ and set(_precisions()) <= set(measured)
        if here and facts["sha256"] == sha256(path):
            return measured
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        pass
    return None


def _export(
    path: Path,
    module: "Module",
    inputs: dict[str, Any],
    varying: dict[str, dict[int, Any]],
    measure: Measure | None,
) -> dict[str, float]:
    """Export to a temporary file, measure its agreement, and move it to `path`, which never has an incomplete file.

    A failure is written too, as an export that fails takes as long as one that does not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _export_and_measure(path, module, inputs, varying, measure)
    except (OSError, MemoryError):
        raise  # of the machine, not of the model
    except Exception as error:
        write_file(path.with_suffix(".json"), orjson.dumps({"versions": _versions(), "failure": str(error)[:1000]}))
        raise


def _raise_earlier_failure(path: Path) -> None:
    """Raise Disagreement if the export failed before, with these versions."""
    try:
        facts = orjson.loads(path.with_suffix(".json").read_bytes())
        failure = facts["failure"] if facts["versions"] == _versions() else None
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return
    if failure is not None:
        raise Disagreement(failure)


def _versions() -> list[str]:
    return [openvino.__version__, version("torch")]


def _export_and_measure(
    path: Path,
    module: "Module",
    inputs: dict[str, Any],
    varying: dict[str, dict[int, Any]],
    measure: Measure | None,
) -> dict[str, float]:
    import torch

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
        measured = _measure(fresh, measure or partial(_compare, module, inputs))
        facts = {"openvino": openvino.__version__, "sha256": sha256(fresh), "agreement": measured}
        move_into_place(fresh, path)
        write_file(path.with_suffix(".json"), orjson.dumps(facts))
    return measured


def _compare(module: "Module", inputs: dict[str, Any], run: Run) -> float:
    """Return the agreement of an export with its module on the example inputs."""
    import torch

    with torch.inference_mode():
        expected = module(**inputs).numpy()
    return measure_agreement(run(**{name: tensor.numpy() for name, tensor in inputs.items()}), expected)


def _run(compiled: openvino.CompiledModel, **inputs: NDArray[Any]) -> Vectors:
    return np.array(compiled(inputs)[0], np.float32)


def _measure(path: Path, measure: Measure) -> dict[str, float]:
    """Measure the agreement of an export in each precision; raises Disagreement if it is low even in fp32."""
    measured = {}
    for precision in _precisions():
        measured[precision] = measure(partial(_run, _compiled(path, 1, precision)))
        if measured[precision] < LIMITS[precision]:
            _log.warning(
                "the export of %s in %s is not used: its vectors agree with the library's by %.5f, not %s",
                path.stem,
                precision,
                measured[precision],
                LIMITS[precision],
            )
    if not measured["f32"] >= LIMITS["f32"]:  # also where it is not a number
        raise Disagreement(f"its ONNX export gives other vectors (agreement {measured['f32']:.5f})")
    return measured


def _compiled(path: Path, streams: int, precision: str) -> openvino.CompiledModel:
    """Compile a model for `streams` batches at once, in a precision."""
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": streams,
        "NUM_STREAMS": streams,
        # Otherwise each of several service processes would pin its threads to the first cores.
        "ENABLE_CPU_PINNING": False,
    }
    core = openvino.Core()
    model = core.read_model(str(path))
    if precision == "bf16":
        round_convolutions(model)
    return core.compile_model(model, "CPU", options)
