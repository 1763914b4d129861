"""Exports the networks of a trained scorer to ONNX, and compares them with the trained ones."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import safetensors.torch
import torch
from torch import Tensor, nn

from embed.behaviour.interactions import KINDS
from serve.recommend.ranking.feature import HISTORY
from serve.recommend.ranking.scorer import NETWORKS, WEIGHTS
from serve.training.scorer_network import ScorerNetwork

TOLERANCE = 1e-4


def export(network: ScorerNetwork) -> dict[str, bytes]:
    """Return the files of a scorer by name; raises RuntimeError if an export computes other values than its network."""
    network = network.eval()
    return {
        NETWORKS[0]: _export(network.features, ["hidden", "logits"], {0: "n"}, lambda n, _: _features(network, n)),
        WEIGHTS: safetensors.torch.save(network.state_dict()),
        NETWORKS[1]: _export(network.history, ["added"], {0: "n", 1: "h"}, lambda n, h: _history(network, n, h)),
    }


def _features(network: ScorerNetwork, n: int) -> dict[str, Tensor]:
    columns = network.features.mean.shape[0]
    return {"values": torch.randn(n, columns), "known": (torch.rand(n, columns) > 0.3).float()}


def _history(network: ScorerNetwork, n: int, h: int) -> dict[str, Tensor]:
    return {
        "pairs": torch.randn(n, h, network.history.pair.in_features),
        "kinds": torch.randint(0, len(KINDS), (n, h)),
        "gaps": torch.rand(n, h) * 1e6,
        "there": torch.ones(n, h),
    }


def _export(
    module: nn.Module, outputs: list[str], axes: dict[int, str], inputs: Callable[[int, int], dict[str, Tensor]]
) -> bytes:
    """Export a module that takes the `inputs` of n candidates and h interactions; check it for several of both."""
    torch.manual_seed(0)
    example = inputs(3, 5)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older exporter, which takes a hundredth of the time
        path = Path(folder) / "network.onnx"
        torch.onnx.export(
            module,
            tuple(example.values()),
            str(path),
            input_names=list(example),
            output_names=outputs,
            dynamic_axes=dict.fromkeys(example, axes),
            dynamo=False,
        )
        data = path.read_bytes()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for n, h in ((3, 5), (7, 1), (1, HISTORY)):
        tensors = inputs(n, h)
        found = session.run(outputs[-1:], {name: tensor.numpy() for name, tensor in tensors.items()})[0]
        with torch.inference_mode():
            expected = module(*tensors.values())
        expected = (expected[-1] if isinstance(expected, tuple) else expected).numpy()
        difference = float(np.abs(found - expected).max())
        if not difference < TOLERANCE:
            raise RuntimeError(f"the export and the trained network differ by {difference:.2g}")
    return data
