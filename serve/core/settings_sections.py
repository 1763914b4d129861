"""Sections of the settings: groups of values with a table of their own in `vetrina.toml`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class HalfLives(BaseModel):
    """Half-lives: after so many days an event counts half."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    covisitation: float = Field(60.0, gt=0, description="days, for items that the same users interacted with")
    popularity: float = Field(14.0, gt=0, description="days, for popular items; trending ones use a fraction of it")
    arrivals: float = Field(14.0, gt=0, description="days since an item's first appearance, for new items")


class OnlineSettings(BaseModel):
    """Online learning: how the scorer learns from feedback between two trainings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learn: bool = Field(True, description="whether feedback is learned from as it arrives")
    prior: float = Field(500.0, gt=0, description="shown items after which their feedback has half the influence")
    half_life_days: float = Field(7.0, gt=0, description="days after which feedback counts half")
    max_daily_responses: int = Field(
        20,
        ge=1,
        description="maximum number of responses to one user that are learned from in a day",
    )


class ExploreSettings(BaseModel):
    """Exploration: whether recommendations also try items that are not the best by their scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Literal["plackett_luce", "thompson"] = Field(
        "plackett_luce",
        description="how a list is drawn: plackett_luce by the scores, thompson by the uncertainty of online learning",
    )
    share: float = Field(
        0.0, ge=0, le=1, description="share of requests that are explored, unless a request sets `explore`; 0 is none"
    )
    temperature: float = Field(
        0.2, gt=0, le=10, description="randomness of plackett_luce; the smaller, the closer to the order by score"
    )
    min_relative_score: float = Field(
        0.8,
        ge=0,
        le=1,
        description="minimum score of an item that may be drawn, as a share of the score at the last position",
    )


class CopySettings(BaseModel):
    """Copywriting: what generates texts of items; templates, unless an endpoint or a model is set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field(
        "", description="URL of a server with OpenAI's chat completions, such as http://host:8080/v1; empty for none"
    )
    model: str = Field(
        "",
        description="model of the endpoint, or without one the folder or name of a transformers model; empty for none",
    )
    temperature: float = Field(0.3, ge=0, le=2, description="randomness of the generated texts")
    timeout_s: float = Field(20.0, gt=0, le=300, description="seconds to wait for the endpoint")


class ReviewSettings(BaseModel):
    """Content policy for images; blocked words and categories are in `review.toml` in the store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classifier: str = Field(
        "",
        description="module:function that rates each image from 0 (fine) to 1 (must be hidden); empty for none",
    )
    threshold: float = Field(0.5, gt=0, le=1, description="probability from which an item is hidden")


class Timeouts(BaseModel):
    """Timeouts of a request."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body: float = Field(30.0, gt=0, le=3600, description="seconds for the body of a request to arrive")
    events: float = Field(
        1.0, gt=0, le=60, description="seconds to wait for a user's events from a database on another machine"
    )
    response: float = Field(
        1.0,
        gt=0,
        le=60,
        description="seconds after which a response is sent without reranking",
    )
    stop: int = Field(30, ge=1, le=600, description="seconds that a stopping service waits for requests in progress")


class GateSettings(BaseModel):
    """Release gate: by how much a new release may be worse than the one before and still be published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float = Field(0.05, ge=0, le=1, description="share of a metric that both releases have for the same users")
    calibration: float = Field(0.02, ge=0, le=1, description="absolute, of the calibration error of clicks")
    recorded: float = Field(
        0.2, ge=0, le=1, description="share of a metric that each release recorded in its own training"
    )
    recall: float = Field(0.05, ge=0, le=1, description="absolute, of an index's recall@10 below the target")
