"""Training of the towers: one loop, which a kill may interrupt anywhere, and which then ends as if it had not been.

The loss is sampled softmax over the next item. With m negatives drawn with probabilities q, the partition function of
all items is estimated as `exp(s_target) + sum_j exp(s_j) / (m q_j)`: the target is always there and so needs no
correction, each negative is corrected by the log of how often it is drawn (logQ; Bengio and Senécal 2008; Khrylchenko
et al., "Correcting the LogQ Correction", RecSys 2025). The negatives are shared by all interactions of a batch.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from embed.behaviour.interactions import Interactions
from embed.behaviour.ranking import hits, ndcg, recall
from embed.behaviour.splits import Holdout
from embed.towers.batches import Batch, batches, windows
from embed.towers.features import ItemFeatures, Vocabulary
from embed.towers.model import Sizes, Towers, gap_buckets
from embed.towers.settings import TowerSettings
from embed.towers.two_tower_model import TrainedTowers
from embed.training_loop import Progress, State
from embed.training_loop import fit as run

K = 10
MAX_SHOPPERS = 20_000  # that an epoch is validated with


class Trainer:
    """Towers, their optimizer, and what they learn from."""

    def __init__(
        self,
        settings: TowerSettings,
        sizes: Sizes,
        features: ItemFeatures,
        interactions: Interactions,
        device: str = "cpu",
    ) -> None:
        self.settings, self.interactions, self.device = settings, interactions, device
        # An item that nobody had is known by its content alone; an embedding of its own would say nothing.
        counts = np.bincount(interactions.item, minlength=interactions.items)
        self.features = replace(features, identity=np.where(counts > 0, features.identity, 0))
        torch.manual_seed(settings.seed)
        self.towers = Towers(sizes, settings).to(device)
        matrices = [each for each in self.towers.parameters() if each.dim() > 1]
        others = [each for each in self.towers.parameters() if each.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            fused=True,
        )
        self.windows = windows(interactions, settings.history)
        # Nor is it drawn as a negative, which would teach that nobody wants what is new.
        known = (counts > 0) / max(1, int(np.count_nonzero(counts)))
        self._probability = settings.uniform * known + (1 - settings.uniform) * counts / max(1, int(counts.sum()))
        self._cumulative = np.cumsum(self._probability)
        learned = int((self.windows[:, 1] - self.windows[:, 0] - 1).sum())
        self.steps = max(1, math.ceil(1.05 * learned / settings.tokens))  # of an epoch, about

    def train_epoch(self, epoch: int, progress: Progress | None = None) -> float:
        """Go through all windows once; the mean loss. Seed, epoch and what was learned before decide all."""
        random = np.random.default_rng([self.settings.seed, epoch])
        torch.manual_seed(int(random.integers(1 << 62)))
        self.towers.train()
        total, step = torch.zeros((), device=self.device), 0
        for step, batch in enumerate(batches(self.interactions, self.windows, self.settings.tokens, random), start=1):
            self._set_rate((epoch + min(1.0, step / self.steps)) / self.settings.epochs)
            loss = self._loss(batch, random)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.towers.parameters(), 1.0)
            self.optimizer.step()
            total += loss.detach()
            if progress:
                progress(step, max(step, self.steps))
        return float(total) / max(1, step)

    def _set_rate(self, share: float) -> None:
        """The rate after a share of all steps: a linear warm-up, then a cosine decay to a hundredth."""
        warm = self.settings.warm_up
        factor = share / warm if share < warm else 0.505 + 0.495 * math.cos(math.pi * (share - warm) / (1 - warm))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor

    def _loss(self, batch: Batch, random: np.random.Generator) -> Tensor:
        draws = random.random(self.settings.negatives) * self._cumulative[-1]
        negatives = np.searchsorted(self._cumulative, draws).clip(max=len(self._cumulative) - 1)
        learned = batch.weight > 0  # [b, longest]
        targets = batch.target[learned]  # [targets]
        weights = self._tensor(batch.weight[learned])
        # Every item that the batch touches goes through the item tower once. Its vector is looked up by embedding(), as
        # the gradient of vectors[rows] is summed by several threads in any order, and so differs from run to run.
        touched = np.concatenate([batch.histories.item.ravel(), targets, negatives])
        items, places = np.unique(touched, return_inverse=True)
        ends = batch.histories.item.size, batch.histories.item.size + len(targets)
        of_history, of_targets, of_negatives = (self._tensor(part) for part in np.split(places, ends))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"):
            vectors = self.towers.item_tower(self.features.rows(items, self.device))  # [items, dim]
            after = self.towers.user_tower(  # [b, longest, dim]
                functional.embedding(of_history, vectors).view(*batch.histories.item.shape, -1),
                self._tensor(batch.histories.kind),
                gap_buckets(self._tensor(batch.histories.gap)),
            )
        queries, vectors = after[self._tensor(learned)].float(), vectors.float()  # [targets, dim], [items, dim]
        positive = (queries * functional.embedding(of_targets, vectors)).sum(-1)  # [targets]
        drawn = np.log(len(negatives) * self._probability[negatives]).astype(np.float32)
        logits = queries @ functional.embedding(of_negatives, vectors).T - self._tensor(drawn)  # [targets, negatives]
        logits = logits.masked_fill(self._tensor(targets[:, None] == negatives), -torch.inf)
        losses = torch.logsumexp(torch.cat([positive[:, None], logits], 1), 1) - positive
        loss: Tensor = (losses * weights).sum() / weights.sum().clamp(min=1e-9)
        return loss

    @property
    def module(self) -> Towers:
        return self.towers

    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to."""
        return {
            "settings": self.settings.model_dump(),
            "sizes": asdict(self.towers.sizes),
            "interactions": len(self.interactions),
        }

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def trained(self, vocabulary: Vocabulary, facts: dict[str, Any]) -> TrainedTowers:
        """The towers as they are now, ready for use."""
        towers = Towers(self.towers.sizes, self.settings)
        towers.load_state_dict(self.towers.state_dict())
        if towers.item_tower.identity is not None:
            unknown = np.setdiff1d(np.arange(self.towers.sizes.items + 1), self.features.identity)
            with torch.no_grad():
                towers.item_tower.identity.weight[torch.from_numpy(unknown)] = 0
        trained = TrainedTowers(towers, vocabulary, facts, self.device)
        trained.set_reach(self.features)
        return trained


def validate(trainer: Trainer, holdout: Holdout) -> dict[str, float]:
    """NDCG and recall of the first ten of all items, over the held-out shoppers that have a history."""
    trained = trainer.trained(Vocabulary(), {})
    known = holdout.of(np.flatnonzero(np.diff(holdout.history.starts) > 0)).some(MAX_SHOPPERS, trainer.settings.seed)
    if not len(known):
        return {"ndcg10": 0.0, "recall10": 0.0}
    vectors = trained.item_vectors(trainer.features)
    found = hits(rank_all(trained.user_vectors(vectors, known.history), vectors, known, K), known)
    return {"ndcg10": float(ndcg(found, known, K).mean()), "recall10": float(recall(found, known, K).mean())}


def rank_all(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], holdout: Holdout, k: int, at_once: int = 512
) -> NDArray[np.int64]:
    """The k best of all items [n, dim] for m shoppers [m, dim], without those in their history, [m, k]."""
    items = torch.from_numpy(vectors).T
    ranked = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(queries), at_once):
        rows = np.arange(start, min(start + at_once, len(queries)))
        scores = torch.from_numpy(queries[rows]) @ items
        seen = holdout.history.of(rows)
        scores[torch.from_numpy(seen.user), torch.from_numpy(seen.item.astype(np.int64))] = -torch.inf
        best = scores.topk(min(k, scores.shape[1])).indices.numpy()
        ranked[rows, : best.shape[1]] = best
    return ranked


def fit(
    trainer: Trainer,
    holdout: Holdout | None,
    folder: Path,
    epochs: int | None = None,
    progress: Progress | None = None,
    told: Callable[[int, dict[str, float]], None] | None = None,
) -> State:
    """Train until validation gets no better, or, without a holdout, for `epochs`; see embed.training_loop.fit."""
    return run(
        trainer,
        folder,
        trainer.settings.epochs if epochs is None else epochs,
        trainer.settings.patience,
        (lambda: validate(trainer, holdout)) if holdout is not None else None,
        "ndcg10",
        progress,
        told,
    )
