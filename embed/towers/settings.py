"""What can be set about the towers: their form, and how they are trained."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TowerSettings(BaseModel):
    """The defaults were chosen on the validation items of two public data sets (tests/bench/README.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dim: int = Field(64, ge=8, le=1024, description="values of a vector")
    blocks: int = Field(1, ge=1, le=12, description="Transformer blocks of the user tower")
    heads: int = Field(2, ge=1, le=16, description="attention heads of a block; they divide dim")
    history: int = Field(50, ge=2, le=1000, description="interactions that the user tower reads")
    dropout: float = Field(0.5, ge=0, lt=1)
    item_dropout: float = Field(0.1, ge=0, lt=1, description="how often an item's own embedding is left out")
    epochs: int = Field(25, ge=1, description="at most; the learning rate falls until then")
    patience: int = Field(5, ge=1, description="epochs without a better validation before training ends")
    learning_rate: float = Field(0.01, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    warm_up: float = Field(0.05, gt=0, lt=1, description="share of all steps in which the rate rises")
    tokens: int = Field(2048, ge=1, description="interactions of a batch")
    negatives: int = Field(1024, ge=1, description="items that a batch is set against")
    uniform: float = Field(0.5, gt=0, le=1, description="share of these drawn evenly, the others as they occur")
    seed: int = 0

    @model_validator(mode="after")
    def _heads_divide(self) -> "TowerSettings":
        if self.dim % self.heads:
            raise ValueError(f"heads is {self.heads} and does not divide dim {self.dim}")
        return self
