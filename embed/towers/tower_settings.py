"""Settings of the towers: their architecture and their training."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TowerSettings(BaseModel):
    """Settings of the two-tower model. Defaults were chosen on validation data of two public data sets.

    See tests/bench/README.md.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(64, ge=8, le=1024, description="dimension of the vectors")
    blocks: int = Field(1, ge=1, le=12, description="Transformer blocks of the user tower")
    heads: int = Field(2, ge=1, le=16, description="attention heads of a block; must divide dim")
    history: int = Field(50, ge=2, le=1000, description="interactions that the user tower reads")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout of the hidden layers")
    item_dropout: float = Field(
        0.1, ge=0, lt=1, description="probability of dropping an item's id embedding in training"
    )
    epochs: int = Field(25, ge=1, description="maximum number of epochs; the learning rate decays until then")
    patience: int = Field(
        5, ge=1, description="epochs without improvement on validation data, after which training stops"
    )
    learning_rate: float = Field(0.01, gt=0, description="maximum step size of the optimizer")
    weight_decay: float = Field(0.05, ge=0, description="weight decay of the optimizer")
    warm_up: float = Field(0.05, gt=0, lt=1, description="share of all steps in which the learning rate rises")
    tokens: int = Field(2048, ge=1, description="interactions of a batch")
    negatives: int = Field(1024, ge=1, description="negative items of a batch")
    uniform: float = Field(
        0.5, gt=0, le=1, description="share of the negatives drawn uniformly; the others are drawn by popularity"
    )
    seed: int = Field(0, description="seed of all random choices")

    @model_validator(mode="after")
    def _heads_divide(self) -> "TowerSettings":
        if self.dim % self.heads:
            raise ValueError(f"heads {self.heads} does not divide dim {self.dim}: choose a divisor")
        return self
