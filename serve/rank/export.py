"""Export of a trained scorer's networks to ONNX, checked against what was trained."""

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from embed.behaviour.interactions import KINDS
from serve.rank.network import ScorerNetwork
from serve.rank.scorer import NETWORKS

TOLERANCE = 1e-4


def export(network: ScorerNetwork) -> dict[str, bytes]:
    """The files of a scorer by name. Raises RuntimeError where one does not give what the network gives."""
    network = network.eval()
    columns = network.features.mean.shape[0]
    places, channels = network.history.place.num_embeddings, network.history.pair.in_features
    torch.manual_seed(0)
    n, rows, length = 3, torch.export.Dim("rows"), torch.export.Dim("length", min=1, max=places)
    features = {"values": torch.randn(n, columns), "known": (torch.rand(n, columns) > 0.3).float()}
    history = {
        "pairs": torch.randn(n, places - 1, channels),
        "kinds": torch.randint(0, len(KINDS), (n, places - 1)),
        "gaps": torch.rand(n, places - 1) * 1e6,
        "there": torch.ones(n, places - 1),
    }
    both = {name: {0: rows, 1: length} for name in history}
    return {
        NETWORKS[0]: _export(network.features, features, ["hidden", "logits"], {name: {0: rows} for name in features}),
        NETWORKS[1]: _export(network.history, history, ["added"], both),
    }


def _export(module: nn.Module, inputs: dict[str, Any], outputs: list[str], varying: dict[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            module,
            (),
            str(path),
            kwargs=inputs,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=varying,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
        data = path.read_bytes()
    found = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(
        outputs[-1:], {name: tensor.numpy() for name, tensor in inputs.items()}
    )[0]
    with torch.inference_mode():
        expected = module(**inputs)
    expected = (expected[-1] if isinstance(expected, tuple) else expected).numpy()
    difference = float(np.abs(found - expected).max())
    if not difference < TOLERANCE:
        raise RuntimeError(f"the export gives other scores than the network that was trained (by {difference:.2g})")
    return data
