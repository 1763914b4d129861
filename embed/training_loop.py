"""The training loop of all models: epochs, early stopping, checkpoints that survive a kill, TensorBoard logs.

A learner says what one epoch does. An epoch must depend on the seed, the epoch's index and the state before it, and on
nothing else, so that a training run that was killed and resumed ends like one that ran through.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import orjson
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer

from embed.durable import move_into_place
from embed.progress import Progress


class Learner(Protocol):
    """A module, its optimizer and how one epoch trains it."""

    device: str

    @property
    def module(self) -> Module: ...

    @property
    def optimizer(self) -> Optimizer: ...

    def train_epoch(self, epoch: int, progress: Progress | None = None) -> float:
        """Train on all data once and return the mean loss."""

    def identity(self) -> Mapping[str, Any]:
        """Return what a checkpoint belongs to, as JSON values: settings, sizes, data."""


@dataclass
class TrainingState:
    """Progress of a training run: epochs done, metrics of each epoch, and `by`, the metric to maximize."""

    by: str
    epoch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The best epoch, counted from 1; the last epoch if nothing is measured, 0 before the first."""
        gains = [metrics.get(self.by, epoch) for epoch, metrics in enumerate(self.curve)]
        return 1 + gains.index(max(gains)) if gains else 0


def fit(
    learner: Learner,
    folder: Path,
    epochs: int,
    patience: int = 0,
    measure: Callable[[], dict[str, float]] | None = None,
    by: str = "",
    progress: Progress | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainingState:
    """Train until the metric `by` stops improving, and leave the weights of the best epoch in the module.

    After each epoch `folder` holds a checkpoint, from which the next call with the same learner resumes. TensorBoard
    reads the same folder.

    Args:
        learner: What to train.
        folder: Where checkpoint and logs are written.
        epochs: Maximum number of epochs; the exact number if there is no `measure`.
        patience: Epochs without improvement after which training stops.
        measure: Returns the metrics of the module as it is now.
        by: Name of the metric to maximize.
        progress: Called with steps done and total steps.
        on_epoch: Called after each epoch with its number, from 1, and its metrics.

    Returns:
        The state at the end.

    Raises:
        ValueError: The checkpoint in `folder` belongs to another training run.
    """
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.safetensors"
    state, best = _restore(learner, checkpoint) if checkpoint.exists() else (TrainingState(by), _copy(learner.module))
    with SummaryWriter(str(folder), purge_step=state.epoch) as writer:
        while state.epoch < epochs and (measure is None or state.epoch - state.best_epoch < patience):
            report = partial(_report_step, progress, state.epoch, epochs) if progress else None
            loss = learner.train_epoch(state.epoch, report)
            state.curve.append({"loss": loss, **(measure() if measure else {})})
            state.epoch += 1
            if state.best_epoch == state.epoch:
                best = _copy(learner.module)
            for name, value in state.curve[-1].items():
                writer.add_scalar(name, value, state.epoch)
            _save_checkpoint(learner, state, best, checkpoint)
            if on_epoch:
                on_epoch(state.epoch, state.curve[-1])
    learner.module.load_state_dict(best)
    return state


def _report_step(progress: Progress, epoch: int, epochs: int, step: int, steps: int) -> None:
    progress(epoch * steps + step, epochs * steps)


def _copy(module: Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _save_checkpoint(learner: Learner, state: TrainingState, best: Mapping[str, Tensor], path: Path) -> None:
    """Write the checkpoint in one atomic step."""
    tensors = {f"module.{name}": tensor for name, tensor in learner.module.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for index, parameter_state in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in parameter_state.items()}
    metadata = {"state": asdict(state), "of": learner.identity()}
    fresh = path.with_suffix(".tmp")
    # Cloned, because safetensors refuses tensors that share memory.
    save_file(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
        fresh,
        {"checkpoint": orjson.dumps(metadata).decode()},
    )
    move_into_place(fresh, path)


def _restore(learner: Learner, path: Path) -> tuple[TrainingState, dict[str, Tensor]]:
    """Load a checkpoint into the learner; return the training state and the best weights."""
    with safe_open(path, "pt", device=learner.device) as file:
        metadata = orjson.loads(file.metadata()["checkpoint"])
        if metadata["of"] != learner.identity():
            raise ValueError(f"checkpoint {path} belongs to another training run: delete it")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    learner.module.load_state_dict(_strip_prefix("module", tensors))
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _strip_prefix("optimizer", tensors).items():
        index, _, part = name.partition(".")
        states.setdefault(int(index), {})[part] = tensor
    optimizer_state = learner.optimizer.state_dict()
    learner.optimizer.load_state_dict({**optimizer_state, "state": states})
    return TrainingState(**metadata["state"]), _strip_prefix("best", tensors)


def _strip_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose name starts with the prefix, named without it."""
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }
