"""What can be set about the scorer: its form, how it is trained, and what the shop gets from each act."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

HEADS = ("click", "cart", "purchase", "rating")
"""What a scorer may foretell of a candidate: that it is viewed or clicked, put into the cart, bought, rated well."""

Weight = Annotated[float, Field(ge=0, le=1000)]


class ScorerSettings(BaseModel):
    """The defaults were chosen on the validation items of public data sets (tests/bench/README.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss_weights: dict[str, Weight] = Field(
        {"click": 1.0, "cart": 2.0, "purchase": 3.0, "rating": 1.0}, description="what each head counts in the loss"
    )
    position_power: float = Field(
        0.0,
        ge=0,
        le=2,
        description="at place p of a list, from 1, an item is looked at with probability p ** -power; what happens "
        "there counts by its inverse, at most 10; 0 leaves places to the position feature",
    )
    inverse_propensity: bool = Field(
        False,
        description="whether what was shown counts by the inverse of how likely that was, at most 10, where lists are "
        "drawn (explore) or impressions say it in `value`",
    )
    hidden: int = Field(32, ge=4, le=512)
    dropout: float = Field(0.1, ge=0, lt=1)
    hide: float = Field(0.1, ge=0, lt=1, description="how often a group of features is hidden in training")
    cases: int = Field(10_000, ge=100, description="lists and shoppers to learn from, at most")
    hard: int = Field(
        40, ge=1, description="candidates of the pipeline that nothing came of, for each shopper; a quarter for a list"
    )
    random: int = Field(10, ge=0, description="items at random that nothing came of, for each shopper")
    epochs: int = Field(20, ge=1)
    patience: int = Field(4, ge=1)
    learning_rate: float = Field(0.003, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    rows: int = Field(2048, ge=1, description="candidates of a batch")
    seed: int = 0

    @field_validator("loss_weights")
    @classmethod
    def _known_heads(cls, given: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(given) - set(HEADS)):
            raise ValueError(f"there is no head {unknown[0]!r}: there are {', '.join(HEADS)}")
        return given
