"""The loop that fits a model: epochs, early stopping, checkpoints that a kill cannot spoil, and what TensorBoard shows.

What is learned in an epoch belongs to the learner; it must depend on nothing but the seed, the epoch's number and what
was learned before, so that training which was killed ends as if it had not been.
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

from embed.durable import sync

Progress = Callable[[int, int], None]  # steps done, steps in all


class Learner(Protocol):
    """A module, its optimizer, and how an epoch is gone through."""

    device: str

    @property
    def module(self) -> Module: ...

    @property
    def optimizer(self) -> Optimizer: ...

    def train_epoch(self, epoch: int, progress: Progress | None = None) -> float:
        """Learn from everything once; the mean loss."""

    def identity(self) -> Mapping[str, Any]:
        """What a checkpoint belongs to, as JSON: settings, sizes, data."""


@dataclass
class State:
    """How far training is: epochs done, how each measured, and the measure, larger being better, that chooses."""

    by: str
    epoch: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The epoch, counted from 1, that measured best, or the last where nothing was measured; 0 before the first."""
        gains = [measured.get(self.by, epoch) for epoch, measured in enumerate(self.curve)]
        return 1 + gains.index(max(gains)) if gains else 0


def fit(
    learner: Learner,
    folder: Path,
    epochs: int,
    patience: int = 0,
    measure: Callable[[], dict[str, float]] | None = None,
    by: str = "",
    progress: Progress | None = None,
    told: Callable[[int, dict[str, float]], None] | None = None,
) -> State:
    """Train until `measure` has got no better by `by` for `patience` epochs, or, without a measure, to the last epoch.

    The best epoch's weights stay. After each epoch `folder` holds a checkpoint, from which the next call goes on; it is
    for the same learner only. TensorBoard reads the same folder. `told` hears of each epoch as it ends.
    """
    from torch.utils.tensorboard import SummaryWriter  # slow to import

    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.safetensors"
    state, best = _restore(learner, checkpoint) if checkpoint.exists() else (State(by), _copy(learner.module))
    with SummaryWriter(str(folder), purge_step=state.epoch) as writer:
        while state.epoch < epochs and (measure is None or state.epoch - state.best_epoch < patience):
            tell = partial(_tell, progress, state.epoch, epochs) if progress else None
            loss = learner.train_epoch(state.epoch, tell)
            state.curve.append({"loss": loss, **(measure() if measure else {})})
            state.epoch += 1
            if state.best_epoch == state.epoch:
                best = _copy(learner.module)
            for name, value in state.curve[-1].items():
                writer.add_scalar(name, value, state.epoch)
            _keep(learner, state, best, checkpoint)
            if told:
                told(state.epoch, state.curve[-1])
    learner.module.load_state_dict(best)
    return state


def _tell(progress: Progress, epoch: int, epochs: int, step: int, steps: int) -> None:
    progress(epoch * steps + step, epochs * steps)


def _copy(module: Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _keep(learner: Learner, state: State, best: Mapping[str, Tensor], path: Path) -> None:
    """Write the checkpoint in one rename."""
    tensors = {f"module.{name}": tensor for name, tensor in learner.module.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    for number, of in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in of.items()}
    told = {"state": asdict(state), "of": learner.identity()}
    fresh = path.with_suffix(".tmp")
    # Cloned, as safetensors refuses tensors that share memory.
    save_file(
        {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
        fresh,
        {"checkpoint": orjson.dumps(told).decode()},
    )
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def _restore(learner: Learner, path: Path) -> tuple[State, dict[str, Tensor]]:
    """Put the learner where the checkpoint was written; the state then, and the best weights."""
    with safe_open(path, "pt", device=learner.device) as file:
        told = orjson.loads(file.metadata()["checkpoint"])
        if told["of"] != learner.identity():
            raise ValueError(f"{path} is of another training: delete it")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    learner.module.load_state_dict(_under("module", tensors))
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer", tensors).items():
        number, _, part = name.partition(".")
        states.setdefault(int(number), {})[part] = tensor
    whole = learner.optimizer.state_dict()
    learner.optimizer.load_state_dict({**whole, "state": states})
    return State(**told["state"]), _under("best", tensors)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")
    }
