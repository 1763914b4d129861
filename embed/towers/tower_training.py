"""Trains the towers. Training that is killed at any point and resumed ends like training that ran through.

The loss is sampled softmax over the next item. With m negatives drawn with probabilities q, the partition function of
all items is estimated as `exp(s_target) + sum_j exp(s_j) / (m q_j)`: the target is always included and needs no
correction, and each negative is corrected by the log of its expected count (logQ; Bengio and Senécal 2008; Khrylchenko
et al., "Correcting the LogQ Correction", RecSys 2025). All interactions of a batch share the negatives.
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

from embed.behaviour.holdout_metrics import hits, ndcg, recall
from embed.behaviour.interactions import Interactions
from embed.behaviour.splits import Holdout
from embed.progress import Progress
from embed.towers.batches import Batch, cut_windows, iterate_batches
from embed.towers.tower_features import ItemFeatures, Vocabulary
from embed.towers.tower_network import EmbeddingSizes, Towers, gap_buckets
from embed.towers.tower_settings import TowerSettings
from embed.towers.two_tower_model import TrainedTowers
from embed.training_loop import TrainingState
from embed.training_loop import fit as run

K = 10
MAX_VALIDATION_USERS = 20_000  # of the validation after each epoch


class TowerTrainer:
    """Towers, their optimizer and their training data; a Learner of embed.training_loop."""

    def __init__(
        self,
        settings: TowerSettings,
        sizes: EmbeddingSizes,
        features: ItemFeatures,
        interactions: Interactions,
        device: str = "cpu",
    ) -> None:
        self.settings, self.interactions, self.device = settings, interactions, device
        # An item without interactions has only its content; its id embedding would not be trained.
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
        self.windows = cut_windows(interactions, settings.history)
        # Nor is it drawn as a negative, which would teach that users do not want new items.
        uniform = (counts > 0) / max(1, int(np.count_nonzero(counts)))
        self._probability = settings.uniform * uniform + (1 - settings.uniform) * counts / max(1, int(counts.sum()))
        self._cumulative = np.cumsum(self._probability)
        learned = int((self.windows[:, 1] - self.windows[:, 0] - 1).sum())
        self.steps = max(1, math.ceil(1.05 * learned / settings.tokens))  # of an epoch, approximately

    def train_epoch(self, epoch: int, progress: Progress | None = None) -> float:
        """Train on all windows once; return the mean loss. It depends only on seed, epoch and the state before."""
        random = np.random.default_rng([self.settings.seed, epoch])
        torch.manual_seed(int(random.integers(1 << 62)))
        self.towers.train()
        total, step = torch.zeros((), device=self.device), 0
        for step, batch in enumerate(
            iterate_batches(self.interactions, self.windows, self.settings.tokens, random), start=1
        ):
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
        """Set the learning rate after a share of all steps: linear warm-up, then cosine decay to a hundredth."""
        warm = self.settings.warm_up
        factor = share / warm if share < warm else 0.505 + 0.495 * math.cos(math.pi * (share - warm) / (1 - warm))
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor

    def _loss(self, batch: Batch, random: np.random.Generator) -> Tensor:
        draws = random.random(self.settings.negatives) * self._cumulative[-1]
        negatives = np.searchsorted(self._cumulative, draws).clip(max=len(self._cumulative) - 1)
        trained = batch.weight > 0  # [b, longest]
        targets = batch.target[trained]  # [targets]
        weights = self._tensor(batch.weight[trained])
        # Every item of the batch goes through the item tower once. Its vector is looked up by embedding(), because
        # several threads sum the gradient of vectors[rows] in any order, so that it differs from run to run.
        all_items = np.concatenate([batch.histories.item.ravel(), targets, negatives])
        items, indices = np.unique(all_items, return_inverse=True)
        ends = batch.histories.item.size, batch.histories.item.size + len(targets)
        history_rows, target_rows, negative_rows = (self._tensor(part) for part in np.split(indices, ends))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu"):
            vectors = self.towers.item_tower(self.features.rows(items, self.device))  # [items, dim]
            after = self.towers.user_tower(  # [b, longest, dim]
                functional.embedding(history_rows, vectors).view(*batch.histories.item.shape, -1),
                self._tensor(batch.histories.kind),
                gap_buckets(self._tensor(batch.histories.gap)),
            )
        queries, vectors = after[self._tensor(trained)].float(), vectors.float()  # [targets, dim], [items, dim]
        positive = (queries * functional.embedding(target_rows, vectors)).sum(-1)  # [targets]
        log_expected = np.log(len(negatives) * self._probability[negatives]).astype(np.float32)
        logits = queries @ functional.embedding(negative_rows, vectors).T - self._tensor(
            log_expected
        )  # [targets, negatives]
        logits = logits.masked_fill(self._tensor(targets[:, None] == negatives), -torch.inf)
        losses = torch.logsumexp(torch.cat([positive[:, None], logits], 1), 1) - positive
        loss: Tensor = (losses * weights).sum() / weights.sum().clamp(min=1e-9)
        return loss

    @property
    def module(self) -> Towers:
        return self.towers

    def identity(self) -> dict[str, Any]:
        """Return what a checkpoint belongs to."""
        return {
            "settings": self.settings.model_dump(),
            "sizes": asdict(self.towers.sizes),
            "interactions": len(self.interactions),
        }

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values).to(self.device, non_blocking=True)

    def trained(self, vocabulary: Vocabulary, facts: dict[str, Any]) -> TrainedTowers:
        """Return the towers as they are now, ready for use."""
        towers = Towers(self.towers.sizes, self.settings)
        towers.load_state_dict(self.towers.state_dict())
        if towers.item_tower.identity is not None:
            untrained = np.setdiff1d(np.arange(self.towers.sizes.items + 1), self.features.identity)
            with torch.no_grad():
                towers.item_tower.identity.weight[torch.from_numpy(untrained)] = 0
        trained = TrainedTowers(towers, vocabulary, facts, self.device)
        trained.set_reach(self.features)
        return trained


def validate(trainer: TowerTrainer, holdout: Holdout) -> dict[str, float]:
    """Return NDCG@10 and recall@10, ranking all items, for the held-out users that have a history."""
    trained = trainer.trained(Vocabulary(), {})
    warm = holdout.select_users(np.flatnonzero(np.diff(holdout.history.starts) > 0))
    warm = warm.sample(MAX_VALIDATION_USERS, trainer.settings.seed)
    if not len(warm):
        return {"ndcg10": 0.0, "recall10": 0.0}
    vectors = trained.item_vectors(trainer.features)
    hit = hits(rank_all(trained.user_vectors(vectors, warm.history), vectors, warm, K), warm)
    return {"ndcg10": float(ndcg(hit, warm, K).mean()), "recall10": float(recall(hit, warm, K).mean())}


def rank_all(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], holdout: Holdout, k: int, batch: int = 512
) -> NDArray[np.int64]:
    """Rank all items for m users, without the items of their history.

    Args:
        queries: Vectors of the users [m, dim].
        vectors: Vectors of all items [n, dim].
        holdout: The users.
        k: Items to return for each user.
        batch: Users that are ranked at once.

    Returns:
        The k best items of each user, best first, [m, k]; -1 where there are fewer.
    """
    items = torch.from_numpy(vectors).T
    ranked = np.full((len(queries), k), -1, np.int64)
    for start in range(0, len(queries), batch):
        rows = np.arange(start, min(start + batch, len(queries)))
        scores = torch.from_numpy(queries[rows]) @ items
        history = holdout.history.select_users(rows)
        scores[torch.from_numpy(history.user), torch.from_numpy(history.item.astype(np.int64))] = -torch.inf
        best = scores.topk(min(k, scores.shape[1])).indices.numpy()
        ranked[rows, : best.shape[1]] = best
    return ranked


def fit(
    trainer: TowerTrainer,
    holdout: Holdout | None,
    folder: Path,
    epochs: int | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainingState:
    """Train until NDCG@10 on the holdout stops improving, or, without a holdout, for `epochs` epochs.

    See embed.training_loop.fit for the arguments.
    """
    return run(
        trainer,
        folder,
        trainer.settings.epochs if epochs is None else epochs,
        trainer.settings.patience,
        (lambda: validate(trainer, holdout)) if holdout is not None else None,
        "ndcg10",
        progress,
        on_epoch,
    )
