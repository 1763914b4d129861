"""The linear score model: one order of the candidates of all retrievers, with weights learned from later likes.

The total score of a candidate is a weighted sum of its scores by all retrievers; counts enter by their logarithm:

    sum over retrievers of w * f(score)
    f(x) = x for cosines and standard deviations, log(1 + x / smoothing) for counts

Training chooses the weights and smoothing constants under which the items that users liked later are likeliest among
their candidates: a softmax over the candidates of each user, as in a conditional logit (McFadden 1974). No weight is
negative.

An item without any events is not necessarily unwanted. It gets the constant `new` in place of what counts would add.
The constant is learned from items whose events are hidden.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch.nn import functional

from serve.core.errors import BadRequest
from serve.recommend.retrieval.retriever_registry import RETRIEVERS, is_count


def _default_weights() -> dict[str, float]:
    return {name: spec.weight for name, spec in RETRIEVERS.items()}


def _default_smoothing() -> dict[str, float]:
    return {name: spec.smoothing for name, spec in RETRIEVERS.items() if spec.smoothing is not None}


class LinearScoreModel(BaseModel):
    """The weights of retrievers, and the smoothing constants of counts; an unnamed retriever has weight 0."""

    model_config = ConfigDict(frozen=True)

    weights: dict[str, float] = Field(default_factory=_default_weights)
    smoothing: dict[str, float] = Field(
        default_factory=_default_smoothing,
        validation_alias=AliasChoices("smoothing", "floors"),  # the second, by 0.1
    )
    new: float = 0.0

    def scaled(self, factors: Mapping[str, float]) -> "LinearScoreModel":
        """Multiply the weights of some retrievers; raises BadRequest for an unknown name."""
        if unknown := sorted(set(factors) - set(RETRIEVERS)):
            raise BadRequest(
                f"retriever_weights names an unknown retriever {unknown[0]!r}: use {', '.join(RETRIEVERS)}",
                "retriever_weights",
            )
        weights = {name: weight * factors.get(name, 1.0) for name, weight in self.weights.items()}
        return self.model_copy(update={"weights": weights})

    def total(self, scores: Mapping[str, NDArray[np.float32]], count: int) -> NDArray[np.float32]:
        """Return the total score [m] of m candidates from their scores [m] by each retriever that has a result."""
        total = np.zeros(count, np.float32)
        for retriever, values in scores.items():
            total += self.part(retriever, values)
        total[without_interactions(scores, count)] += np.float32(self.new)
        return total

    def part(self, retriever: str, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a retriever adds to the total."""
        weight = np.float32(self.weights.get(retriever, 0.0))
        if is_count(retriever):
            scores = np.log(scores / np.float32(self.smoothing.get(retriever, 1.0)) + 1)
        return weight * scores


@dataclass(frozen=True)
class ScoreModelExample:
    """The candidates of one user: their scores [m] by retriever, and whether they were liked later, [m]."""

    scores: Mapping[str, NDArray[np.float32]]
    liked: NDArray[np.bool_]


def without_interactions(scores: Mapping[str, NDArray[np.float32]], count: int) -> NDArray[np.bool_]:
    """Return which of m candidates have no events at all, [m], by their scores [m] of each retriever."""
    return scores["popularity"] == 0 if "popularity" in scores else np.zeros(count, np.bool_)


def fit(examples: Sequence[ScoreModelExample], retrievers: Sequence[str], prior: float = 1e-3) -> LinearScoreModel:
    """Fit the weights of `retrievers` to the examples that have a liked candidate; ignore the others.

    `prior` pulls weights towards 0, so that a retriever without evidence gets no weight.
    """
    examples = [example for example in examples if example.liked.any()]
    if not examples:
        return LinearScoreModel()
    width = max(len(example.liked) for example in examples)
    scores = np.zeros((len(retrievers), len(examples), width), np.float32)
    liked = np.zeros((len(examples), width), np.float32)
    is_candidate = np.zeros((len(examples), width), np.bool_)
    new = np.zeros((len(examples), width), np.float32)
    for row, example in enumerate(examples):
        count = len(example.liked)
        is_candidate[row, :count] = True
        liked[row, :count] = example.liked / example.liked.sum()
        new[row, :count] = without_interactions(example.scores, count)
        for column, retriever in enumerate(retrievers):
            if retriever in example.scores:
                scores[column, row, :count] = example.scores[retriever]
    x, y, mask = torch.from_numpy(scores), torch.from_numpy(liked), torch.from_numpy(is_candidate)
    # In units of their own standard deviation, so that one step size suits all.
    deviation = torch.stack([each[mask].std().clamp(min=1e-6) for each in x])
    raw = torch.zeros(len(retrievers), requires_grad=True)
    log_smoothing = torch.zeros(len(retrievers), requires_grad=True)
    new_weight, is_new = torch.zeros((), requires_grad=True), torch.from_numpy(new)
    optimizer = torch.optim.LBFGS([raw, log_smoothing, new_weight], max_iter=200, line_search_fn="strong_wolfe")
    counts = [is_count(retriever) for retriever in retrievers]

    def parameters() -> tuple[torch.Tensor, torch.Tensor]:
        return functional.softplus(raw), deviation * torch.exp(log_smoothing)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        weights, smoothing = parameters()
        total = new_weight * is_new
        for column, count in enumerate(counts):
            if count:
                total = total + weights[column] * torch.log(x[column] / smoothing[column] + 1)
            else:
                total = total + weights[column] * x[column] / deviation[column]
        log_likelihood = functional.log_softmax(total.masked_fill(~mask, -torch.inf), 1).masked_fill(~mask, 0)
        penalty = weights.square().sum() + log_smoothing.square().sum() + new_weight.square()
        loss: torch.Tensor = -(log_likelihood * y).sum(1).mean() + prior * penalty
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        weights, smoothing = parameters()
    return LinearScoreModel(
        weights={
            retriever: float(weight if count else weight / scale)
            for retriever, weight, scale, count in zip(retrievers, weights, deviation, counts, strict=True)
        },
        smoothing={
            retriever: float(value)
            for retriever, value, count in zip(retrievers, smoothing, counts, strict=True)
            if count
        },
        new=new_weight.item(),
    )
