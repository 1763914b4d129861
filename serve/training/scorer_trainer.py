"""Trains the scorer: weighted cross-entropy over all heads, calibrated on held-out users.

    L = - sum over rows and heads of w [y log p + (1 - y) log(1 - p)]

w is the weight of the head times the weight of the row (serve.training.ranking_examples). Afterwards each head's logit
gets the slope and offset under which held-out outcomes are likeliest (Platt 1999), which calibrates probabilities.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from embed.behaviour.interactions import KINDS
from embed.progress import Progress
from serve.core.ranking_settings import HEADS, ScorerSettings
from serve.recommend.ranking.feature import HISTORY
from serve.recommend.ranking.feature_builder import FeatureLayout
from serve.recommend.ranking.scorer import Scorer
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.training.ranking_examples import Examples
from serve.training.scorer_network import FeatureNetwork, ScorerNetwork

SOME_ROWS = 20_000  # of which means are taken
GOING_ON = 0.3  # of the learning rate, where training goes on
MIN_OUTCOMES = 30  # of a head, below which it is not learned


class ScorerTrainer:
    """The network, its optimizer, and the examples it learns from; with `start` it goes on from another's weights."""

    def __init__(
        self,
        settings: ScorerSettings,
        layout: FeatureLayout,
        examples: Examples,
        heads: Sequence[str],
        score_model: LinearScoreModel,
        start: Scorer | None = None,
    ) -> None:
        self.settings, self.layout, self.examples, self.heads = settings, layout, examples, tuple(heads)
        self.device = "cpu"
        self._rate = settings.learning_rate * (1.0 if start is None else GOING_ON)
        self._start = "" if start is None else start.fingerprint
        torch.manual_seed(settings.seed)
        self.network = ScorerNetwork(
            len(layout.names), len(layout.channels), len(KINDS), HISTORY, heads, settings.hidden, settings.dropout
        )
        self._labels = examples.labels[:, [HEADS.index(head) for head in heads]].astype(np.float32)
        if start is None:
            self._begin(score_model)
        else:
            self.network.load_state_dict(safetensors.torch.load(start.weights))
        self._head_weights = torch.tensor([settings.loss_weights.get(head, 1.0) for head in heads])
        self._groups = [torch.from_numpy(columns) for columns in layout.groups.values() if len(columns)]
        matrices = [each for each in self.network.parameters() if each.dim() > 1]
        others = [each for each in self.network.parameters() if each.dim() <= 1]
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self._rate,
            fused=True,
        )
        self.steps = max(1, math.ceil(len(examples) / settings.batch_size))

    def _begin(self, score_model: LinearScoreModel) -> None:
        """Scale the features by the examples, and begin with the order of the score model."""
        features, examples, layout = self.network.features, self.examples, self.layout
        with np.errstate(all="ignore"):
            known = ~np.isnan(examples.values)
            count = known.sum(0).clip(min=1)
            mean = np.where(known, examples.values, 0).sum(0, dtype=np.float64) / count
            spread = np.sqrt(np.where(known, (examples.values - mean) ** 2, 0).sum(0, dtype=np.float64) / count)
        features.met.copy_(torch.from_numpy(known.any(0).astype(np.float32)))
        features.mean.copy_(torch.from_numpy(mean.astype(np.float32)))
        # A constant column teaches nothing, and must have no effect in service either.
        features.spread.copy_(torch.from_numpy(np.where(spread > 1e-5, spread, np.inf).astype(np.float32)))
        features.blend.copy_(torch.from_numpy(_as_weights(score_model, layout, features)))
        with torch.no_grad():
            logits = self.logits(examples)
            for column in range(len(self.heads)):
                calibration = Calibration.fit(logits[:, column], self._labels[:, column] > 0, examples.offset)
                features.worth[column], features.heads.bias[column] = calibration.slope, calibration.offset

    @property
    def module(self) -> ScorerNetwork:
        return self.network

    def identity(self) -> dict[str, object]:
        """Return what a checkpoint belongs to."""
        return {
            "settings": self.settings.model_dump(),
            "columns": list(self.layout.names),
            "heads": list(self.heads),
            "rows": len(self.examples),
            "start": self._start,
        }

    def train_epoch(self, epoch: int, progress: Progress | None = None) -> float:
        """Train on all rows once; return the mean loss. It depends only on seed, epoch and weights."""
        random = np.random.default_rng([self.settings.seed, epoch])
        torch.manual_seed(int(random.integers(1 << 62)))
        self.network.train()
        order = random.permutation(len(self.examples))
        total = torch.zeros((), dtype=torch.float64)
        for step in range(self.steps):
            rate = 0.5 * (1 + math.cos(math.pi * (epoch + step / self.steps) / self.settings.epochs))
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate * max(0.01, rate)
            rows = order[step * self.settings.batch_size : (step + 1) * self.settings.batch_size]
            loss = self._loss(rows)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            total += loss.detach()
            if progress:
                progress(step + 1, self.steps)
        return float(total) / self.steps

    def _loss(self, rows: NDArray[np.int64]) -> Tensor:
        values, known, *history = inputs(self.examples, rows)
        hidden = torch.rand(len(rows), len(self._groups)) < self.settings.group_dropout
        for column, columns in enumerate(self._groups):
            known[:, columns] *= ~hidden[:, column, None]
        logits = self.network(values, known, *history) + torch.from_numpy(self.examples.offset[rows])[:, None]
        labels = torch.from_numpy(self._labels[rows])
        weights = torch.from_numpy(self.examples.weight[rows])[:, None] * self._head_weights
        losses = functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")
        return losses / len(rows)

    def logits(self, examples: Examples) -> NDArray[np.float32]:
        """Return the logits of all rows, [n, heads], at the usual position, as in service."""
        self.network.eval()
        found = [np.empty((0, len(self.heads)), np.float32)]
        positions = self.layout.groups["position"]
        with torch.inference_mode():
            for start in range(0, len(examples), 8192):
                values, known, *history = inputs(examples, np.arange(start, min(start + 8192, len(examples))))
                known[:, positions] = 1
                values[:, positions] = self.network.features.mean[positions]
                found.append(self.network(values, known, *history).numpy())
        return np.concatenate(found)

    @property
    def usual_position(self) -> float:
        """The position column's mean."""
        return float(self.network.features.mean[self.layout.groups["position"]].mean())

    def hidden_scale(self) -> tuple[float, ...]:
        """Return the root mean square of each unit of the last hidden layer over the training rows."""
        self.network.eval()
        rows = np.random.default_rng(self.settings.seed).permutation(len(self.examples))[:SOME_ROWS]
        with torch.inference_mode():
            values, known, *_ = inputs(self.examples, np.sort(rows))
            hidden, _ = self.network.features(values, known)
        return tuple(hidden.square().mean(0).sqrt().clamp(min=1e-3).tolist())

    def measure(self, held: Examples) -> dict[str, float]:
        """Return the log-likelihood of the outcomes of held-out rows over all heads; larger is better."""
        labels = torch.from_numpy(held.labels[:, [HEADS.index(head) for head in self.heads]].astype(np.float32))
        weights = torch.from_numpy(held.weight)[:, None] * self._head_weights
        logits = torch.from_numpy(self.logits(held) + held.offset[:, None])
        losses = functional.binary_cross_entropy_with_logits(logits, labels, weights)
        return {"likelihood": -float(losses)}


def _as_weights(score_model: LinearScoreModel, layout: FeatureLayout, network: FeatureNetwork) -> NDArray[np.float32]:
    """Return the score model as weights [2 * columns] of scaled columns and of their being known, up to a constant."""
    count = len(layout.names)
    weights = np.zeros(2 * count, np.float32)
    for retriever, weight in score_model.weights.items():
        if retriever not in layout.names:
            continue
        column = layout.names.index(retriever)
        spread = float(network.spread[column])
        if network.met[column] and np.isfinite(spread):
            weights[column] = weight * spread
            weights[count + column] = weight * float(network.mean[column])
    # Counts of items without events are unknown.
    weights[count + layout.names.index("popularity")] -= np.float32(score_model.new)
    return weights


def inputs(examples: Examples, rows: NDArray[np.int64]) -> tuple[Tensor, ...]:
    """Return the inputs of the network for some rows."""
    values = examples.values[rows]
    known = ~np.isnan(values)
    case = examples.case[rows]
    return (
        torch.from_numpy(np.where(known, values, 0)),
        torch.from_numpy(known.astype(np.float32)),
        torch.from_numpy(examples.pairs[rows].astype(np.float32)),
        torch.from_numpy(examples.kinds[case]),
        torch.from_numpy(examples.gaps[case]),
        torch.from_numpy(examples.there[case]),
    )


@dataclass(frozen=True)
class Calibration:
    """Slope and offset of a head's logit."""

    slope: float = 1.0
    offset: float = 0.0

    @classmethod
    def fit(cls, logits: NDArray[np.float32], labels: NDArray[np.bool_], offset: NDArray[np.float32]) -> "Calibration":
        """Fit them to the labels [n] by maximum likelihood, with a weak prior towards the identity."""
        x, y, o = (torch.from_numpy(np.asarray(each, np.float64)) for each in (logits, labels, offset))
        raw = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # the logarithm of the slope, and the offset
        optimizer = torch.optim.LBFGS([raw], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            losses = functional.binary_cross_entropy_with_logits(raw[0].exp() * x + raw[1] + o, y, reduction="sum")
            loss = losses + raw.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        slope, shift = raw.detach().tolist()
        return cls(math.exp(slope), shift)


def learnable_heads(examples: Examples) -> list[str]:
    """Return the heads with enough outcomes, without those that equal the next stronger one."""
    counts = examples.labels.sum(0)
    found = [head for head, count in zip(HEADS, counts.tolist(), strict=True) if count >= MIN_OUTCOMES]
    same = {
        weaker
        for weaker, stronger in (("click", "cart"), ("cart", "purchase"))
        if (examples.labels[:, HEADS.index(weaker)] == examples.labels[:, HEADS.index(stronger)]).all()
    }
    return [head for head in found if head not in same]
