"""Settings of the scorer: its network, its training, and the weights of its heads."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

HEADS = ("click", "cart", "purchase", "rating")
"""Outcomes whose probability a scorer predicts: a view or click, adding to the cart, a purchase, a good rating."""

Weight = Annotated[float, Field(ge=0, le=1000)]


class ScorerSettings(BaseModel):
    """Training of the scorer.

    The defaults were chosen on the validation items of public data sets (tests/bench/README.md).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss_weights: dict[str, Weight] = Field(
        {"click": 1.0, "cart": 2.0, "purchase": 3.0, "rating": 1.0}, description="weight of each head in the loss"
    )
    position_power: float = Field(
        0.0,
        ge=0,
        le=2,
        description="correction of position bias: a user looks at position p, from 1, with probability p ** -power, "
        "and feedback there counts by its inverse, at most 10; 0 leaves positions to the position feature",
    )
    inverse_propensity: bool = Field(
        False,
        description="whether shown items count by the inverse of their probability, at most 10; known where lists are "
        "drawn (explore) or impressions have it as `value`",
    )
    hidden: int = Field(32, ge=4, le=512, description="width of the hidden layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the hidden layers")
    group_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="probability that a group of features is hidden from a training example",
    )
    max_lists: int = Field(
        10_000,
        ge=100,
        description="maximum number of lists and users to train on",
    )
    hard_negatives: int = Field(
        40,
        ge=1,
        description="candidates of the pipeline without feedback, for each user; a quarter of them for a list",
    )
    random_negatives: int = Field(
        10,
        ge=0,
        description="random items without feedback, for each user",
    )
    epochs: int = Field(20, ge=1, description="maximum number of passes over the training examples")
    patience: int = Field(4, ge=1, description="epochs without a better validation before training ends")
    learning_rate: float = Field(0.003, gt=0, description="step size of the optimizer")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of the optimizer")
    batch_size: int = Field(2048, ge=1, description="candidates in a batch")
    seed: int = Field(0, description="seed of all random choices")

    @field_validator("loss_weights")
    @classmethod
    def _check_heads(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(value) - set(HEADS)):
            raise ValueError(f"unknown head {unknown[0]!r}: use {', '.join(HEADS)}")
        return value
