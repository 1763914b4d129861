"""The blend: one order out of what the sources say, with weights learned from what shoppers liked next.

The score of a candidate is a weighted sum of its scores in all sources, counts entering by their logarithm:

    sum over sources of w * f(score),  f(x) = x for cosines and standard deviations, log(1 + x / floor) for counts

Weights and floors are those under which what a shopper went on to like is likeliest among the candidates: softmax over
each shopper's candidates, as in a conditional logit (McFadden 1974). No weight is negative.

That nobody had an item yet is no sign that nobody wants it: an item without any behaviour gets `new` in place of what
counts would say. How much that is, is learned from items that are treated as if nobody had had them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch.nn import functional

COUNTS = ("covisitation", "popularity")


class LinearScoreModel(BaseModel):
    """Weights of the sources, and the floors of those that count; a source that is not named weighs nothing."""

    model_config = ConfigDict(frozen=True)

    weights: dict[str, float] = {
        "tower": 12.0,
        "covisitation": 1.0,
        "popularity": 0.3,
        "arrivals": 0.3,
        "content": 0.5,
        "knowledge": 4.0,
    }
    smoothing: dict[str, float] = Field(
        {"covisitation": 0.05, "popularity": 1.0},
        validation_alias=AliasChoices("smoothing", "floors"),  # the second, by 0.1
    )
    new: float = 0.0

    def scaled(self, factors: Mapping[str, float]) -> "LinearScoreModel":
        """With the weights of some sources multiplied."""
        weights = {name: weight * factors.get(name, 1.0) for name, weight in self.weights.items()}
        return self.model_copy(update={"weights": weights})

    def total(self, scores: Mapping[str, NDArray[np.float32]], count: int) -> NDArray[np.float32]:
        """The blended score of m candidates, [m], from their scores [m] in each source that has any to give."""
        total = np.zeros(count, np.float32)
        for retriever, of in scores.items():
            total += self.part(retriever, of)
        total[without_interactions(scores, count)] += np.float32(self.new)
        return total

    def part(self, retriever: str, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """What a source adds to the blended score."""
        weight = np.float32(self.weights.get(retriever, 0.0))
        if retriever in COUNTS:
            scores = np.log(scores / np.float32(self.smoothing.get(retriever, 1.0)) + 1)
        return weight * scores


@dataclass(frozen=True)
class BlendExample:
    """The candidates of one shopper: their scores [m] by source, and which were liked, [m]."""

    scores: Mapping[str, NDArray[np.float32]]
    liked: NDArray[np.bool_]


def without_interactions(scores: Mapping[str, NDArray[np.float32]], count: int) -> NDArray[np.bool_]:
    """Which of m candidates have no behaviour at all, by their scores [m] in each source, [m]."""
    return scores["popularity"] == 0 if "popularity" in scores else np.zeros(count, np.bool_)


def fit(cases: Sequence[BlendExample], retrievers: Sequence[str], prior: float = 1e-3) -> LinearScoreModel:
    """Learn the blend of `retrievers` from cases that hold something liked; the others teach nothing.

    `prior` pulls weights to nothing, so that a source of which there is no evidence stays out.
    """
    cases = [case for case in cases if case.liked.any()]
    if not cases:
        return LinearScoreModel()
    most = max(len(case.liked) for case in cases)
    scores = np.zeros((len(retrievers), len(cases), most), np.float32)
    liked = np.zeros((len(cases), most), np.float32)
    there = np.zeros((len(cases), most), np.bool_)
    new = np.zeros((len(cases), most), np.float32)
    for row, case in enumerate(cases):
        count = len(case.liked)
        there[row, :count] = True
        liked[row, :count] = case.liked / case.liked.sum()
        new[row, :count] = without_interactions(case.scores, count)
        for place, retriever in enumerate(retrievers):
            if retriever in case.scores:
                scores[place, row, :count] = case.scores[retriever]
    x, y, mask = torch.from_numpy(scores), torch.from_numpy(liked), torch.from_numpy(there)
    # In units of their own spread, so that one step size suits all.
    spread = torch.stack([each[mask].std().clamp(min=1e-6) for each in x])
    raw = torch.zeros(len(retrievers), requires_grad=True)
    smoothing = torch.zeros(len(retrievers), requires_grad=True)
    of_new, is_new = torch.zeros((), requires_grad=True), torch.from_numpy(new)
    optimizer = torch.optim.LBFGS([raw, smoothing, of_new], max_iter=200, line_search_fn="strong_wolfe")

    def weights_and_floors() -> tuple[torch.Tensor, torch.Tensor]:
        return functional.softplus(raw), spread * torch.exp(smoothing)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        weights, floor = weights_and_floors()
        total = of_new * is_new
        for place, retriever in enumerate(retrievers):
            if retriever in COUNTS:
                total = total + weights[place] * torch.log(x[place] / floor[place] + 1)
            else:
                total = total + weights[place] * x[place] / spread[place]
        log_likely = functional.log_softmax(total.masked_fill(~mask, -torch.inf), 1).masked_fill(~mask, 0)
        pulled = weights.square().sum() + smoothing.square().sum() + of_new.square()
        loss: torch.Tensor = -(log_likely * y).sum(1).mean() + prior * pulled
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        weights, floor = weights_and_floors()
    counts = [retriever in COUNTS for retriever in retrievers]
    return LinearScoreModel(
        weights={
            retriever: float(weight if count else weight / scale)
            for retriever, weight, scale, count in zip(retrievers, weights, spread, counts, strict=True)
        },
        smoothing={
            retriever: float(value) for retriever, value, count in zip(retrievers, floor, counts, strict=True) if count
        },
        new=of_new.item(),
    )
