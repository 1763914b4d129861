"""Settings of a store: from `vetrina.toml`, then from VETRINA_* variables, then from the command line or the caller.

A later source overrides an earlier one.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from embed.behaviour import EVENT_TYPES, Signal
from embed.encoders.encoder_options import NO_OPTIONS, EncoderOptions
from embed.encoders.encoder_registry import check_options
from embed.errors import BadInput
from embed.images import ImageLimits
from embed.towers.tower_settings import TowerSettings
from serve.core.errors import BadRequest
from serve.core.languages import LANGUAGES
from serve.core.ranking_settings import HEADS, ScorerSettings
from serve.core.settings_sections import (
    CopySettings,
    ExploreSettings,
    GateSettings,
    HalfLives,
    OnlineSettings,
    ReviewSettings,
    Timeouts,
)

SETTINGS_VARIABLE = "VETRINA_SERVED"  # the settings of the service as JSON, for its worker processes
RATES_VARIABLE = "VETRINA_RATES"  # the file in which all worker processes count the requests of API keys
# Variables that begin with VETRINA_ and are not settings.
OTHER_VARIABLES = {
    RATES_VARIABLE,
    SETTINGS_VARIABLE,
    "VETRINA_CACHE",
    "VETRINA_CONFIG",
    "VETRINA_COPY_KEY",
    "VETRINA_DATA",
    "VETRINA_KEY",
    "VETRINA_MILVUS_TOKEN",
    "VETRINA_USER_KEY",
}


RENAMED = {
    "explore.floor": "explore.min_relative_score",
    "leave_out": "exclude_interactions",
    "liked_from": "min_liked_rating",
    "log_answers": "log_impressions",
    "online.most_a_day": "online.max_daily_responses",
    "personal": "personalization",
    "scorer.cases": "scorer.max_lists",
    "scorer.hard": "scorer.hard_negatives",
    "scorer.hide": "scorer.group_dropout",
    "scorer.random": "scorer.random_negatives",
    "scorer.rows": "scorer.batch_size",
    "source_weights": "retriever_weights",
    "timeouts.answer": "timeouts.response",
}
"""Old names of settings, of version 0.1, which are still accepted in `vetrina.toml` and variables."""


def _check_language(name: str) -> str:
    if name not in LANGUAGES:
        raise ValueError(f"unknown language: use {', '.join(LANGUAGES)}")
    return name


class Settings(BaseSettings):
    """All settings with their defaults; an unknown key or variable is an error."""

    model_config = SettingsConfigDict(env_prefix="VETRINA_", extra="forbid", env_nested_delimiter="__")

    store: Path = Field(Path("store"), description="folder of all data: catalogue, vectors, releases, events, keys")
    image_encoder: str = Field(
        "bundled", description="encoder of the image space: bundled, open_clip:MODEL/WEIGHTS, st:MODEL or http:NAME"
    )
    text_encoder: str = Field("bundled", description="encoder of the text space: bundled, st:MODEL or http:NAME")
    encoders: dict[str, EncoderOptions] = Field({}, description="options of encoders, by the encoder's name")
    align: bool = Field(
        True, description="whether builds adapt the image space to the words and photos of the catalogue"
    )
    language: Annotated[str, AfterValidator(_check_language)] = Field(
        "english", description="language of the catalogue, for stemming; none turns stemming off"
    )
    device: str = Field("auto", description="device of models: auto, cpu or cuda; auto is cuda if there is a GPU")
    threads: int = Field(0, ge=0, description="threads of one model or index call; 0 is one for each core")
    mapping: Path | None = Field(None, description="mapping file for a feed with its own column names; empty for none")
    image_root: Path | None = Field(None, description="folder of local images; default is the feed's own folder")
    allow_http_images: bool = Field(False, description="whether images are fetched from http and https URLs")
    image_stores: list[Literal["s3", "gs", "az"]] = Field(
        [], description="object stores that images are read from; default none"
    )
    max_image_bytes: int = Field(20 << 20, gt=0, description="maximum size of an image file in bytes")
    max_image_pixels: int = Field(50_000_000, gt=0, description="maximum size of a decoded image in pixels")
    keep_releases: int = Field(3, ge=1, description="number of releases that stay on disk")
    space_weights: dict[str, Annotated[float, Field(gt=0, le=100)]] = Field(
        {"image": 1.0, "text": 1.0, "keywords": 1.0},
        description="weight of each vector space, and of keyword search, when a request fuses several",
    )
    events_url: str = Field("", description="URL of the event database; empty is the SQLite file in the store")
    event_weights: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        {"view": 0.5, "click": 1.0, "cart": 2.0, "purchase": 3.0, "rating": 1.0},
        description="weight of each event type as a positive signal; types without a weight do not count",
    )
    min_liked_rating: float = Field(4.0, description="rating from which an item counts as liked")
    half_lives: HalfLives = Field(HalfLives(), description="half-lives of events")
    retriever_weights: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        {}, description="factor on the learned weight of a retriever, 1 if not set; 0 turns the retriever off"
    )
    exclude_interactions: list[Literal["seen", "cart", "purchase"]] = Field(
        ["seen", "cart", "purchase"],
        description="items of the user that recommendations exclude: seen, in the cart, or bought",
    )
    rules: Path | None = Field(
        None, description="file of merchandising rules; default is rules.toml in the store, if any"
    )
    new_share: float = Field(
        0.1, ge=0, le=0.5, description="share of recommended positions for items without interactions"
    )
    tail_share: float = Field(
        0.0, ge=0, le=0.9, description="share of recommended positions for long-tail items, which few users know"
    )
    calibration: float = Field(
        0.0, ge=0, le=1, description="how closely recommendations follow the categories of the user's history; 0 is not"
    )
    recommend_unavailable: bool = Field(False, description="whether unavailable items are recommended")
    towers: TowerSettings = Field(TowerSettings(), description="training of the two-tower model")
    scorer: ScorerSettings = Field(ScorerSettings(), description="training of the scorer")
    head_values: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field(
        {"click": 1.0, "cart": 3.0, "purchase": 10.0, "rating": 1.0},
        description="value of each outcome to the shop; the score of an item is its expected value",
    )
    log_impressions: bool = Field(True, description="whether shown items are logged, so that trainings can use them")
    online: OnlineSettings = Field(OnlineSettings(), description="online learning")
    explore: ExploreSettings = Field(ExploreSettings(), description="exploration")
    copywriting: CopySettings = Field(CopySettings(), description="generation of texts")
    review: ReviewSettings = Field(ReviewSettings(), description="content policy for images")
    gate: GateSettings = Field(GateSettings(), description="release gate")
    drift_alert: float = Field(
        0.25, gt=0, description="population stability index of a feature of the shown items above which it has drifted"
    )
    margin_attribute: str = Field(
        "",
        description="attribute with the profit margin of an item: a purchase counts more where it is above the "
        "catalogue's mean, and less where it is below; empty for none",
    )
    personalization: float = Field(
        0.25,
        ge=0,
        le=10,
        description="weight of an item's fit to the user in a search of the user, relative to relevance; 0 is none",
    )
    recall_target: float = Field(0.95, gt=0, le=1, description="share of the ten nearest items that an index must find")
    index_memory_mb: int | None = Field(
        None, gt=0, description="memory limit of the index of a space in MiB; default none"
    )
    index_engine: Literal["faiss", "milvus"] = Field("faiss", description="engine that stores the vectors of a release")
    milvus_uri: str = Field("", description="URL of a Milvus server, or a path that ends in .db for milvus-lite")
    milvus_prefix: str = Field(
        "vetrina", pattern=r"^[A-Za-z][A-Za-z0-9_]*$", description="prefix of Milvus collections"
    )
    workers: int = Field(1, ge=1, le=256, description="number of processes of the service")
    host: str = Field("127.0.0.1", description="address that the service listens on; 0.0.0.0 is all interfaces")
    port: int = Field(8000, ge=0, le=65535, description="port that the service listens on; 0 is any free one")
    max_request_bytes: int = Field(32 << 20, gt=0, description="maximum size of a request body in bytes")
    rate_limit: float = Field(
        100.0, gt=0, le=1_000_000, description="requests a second of a key without a rate of its own"
    )
    cors_origins: list[Annotated[str, Field(pattern=r"^https?://[^/*\s]+$")]] = Field(
        [],
        description="origins whose pages may call the service from a browser, such as https://shop.example",
    )
    cors_headers: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]] = Field(
        ["authorization", "content-type", "traceparent", "tracestate", "sentry-trace", "baggage"],
        description="request headers that pages of these origins may send",
    )
    root_path: str = Field(
        "",
        pattern=r"^(/[A-Za-z0-9._~-]+)*$",
        description="path prefix under which a proxy publishes the service, such as /vetrina; empty for none",
    )
    timeouts: Timeouts = Field(Timeouts(), description="timeouts of requests")
    shed_above_ms: float = Field(
        80.0,
        gt=0,
        description="target for 95 % of response times in milliseconds; requests beyond are rejected with 503",
    )
    recall_probe_seconds: float = Field(
        10.0, ge=0, description="seconds between two live queries that are also searched exactly; 0 is never"
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="format of the log; auto is text on a terminal, else JSON"
    )
    access_log: bool = Field(False, description="whether every request is logged, or only slow and failed ones")
    otel: bool = Field(False, description="whether OpenTelemetry traces requests; it reads OTEL_* variables")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, toml_file=Path(os.environ.get("VETRINA_CONFIG", "vetrina.toml")))
        toml.init_kwargs = _rename_settings(toml.init_kwargs)
        assert isinstance(env_settings, EnvSettingsSource)  # noqa: S101
        names = {_variable(old).lower(): _variable(new).lower() for old, new in RENAMED.items()}
        env_settings.env_vars = {names.get(name, name): value for name, value in env_settings.env_vars.items()}
        return init_settings, env_settings, toml

    @model_validator(mode="after")
    def _check_milvus(self) -> "Settings":
        if self.index_engine == "milvus" and not self.milvus_uri:
            raise ValueError("index_engine milvus needs an address: set milvus_uri")
        if "@" in self.milvus_uri:  # releases contain the address
            raise ValueError("milvus_uri contains a password: set it in VETRINA_MILVUS_TOKEN (user:password)")
        return self

    @model_validator(mode="after")
    def _check_names(self) -> "Settings":
        for name, values, known in (
            ("event_weights", self.event_weights, EVENT_TYPES),
            ("head_values", self.head_values, HEADS),
        ):
            if unknown := sorted(set(values) - set(known)):
                raise ValueError(f"{name} has an unknown key {unknown[0]!r}: use {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _check_encoders(self) -> "Settings":
        for name, options in self.encoders.items():
            check_options(name, options)
        return self

    def encoder_options(self, name: str) -> EncoderOptions:
        """The options of an encoder."""
        return self.encoders.get(name, NO_OPTIONS)

    @property
    def signal(self) -> Signal:
        """How strong a positive signal each event is."""
        return Signal(self.event_weights, self.min_liked_rating)

    @property
    def image_limits(self) -> ImageLimits:
        """Limits of image files."""
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)


def _rename_settings(values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Return the values of a TOML table under the present names of the settings."""
    renamed = {}
    for name, value in values.items():
        path = f"{section}{name}"
        present = RENAMED.get(path, path).removeprefix(section)
        renamed[present] = _rename_settings(value, f"{path}.") if isinstance(value, Mapping) else value
    return renamed


def _invalid(error: ValidationError) -> BadRequest:
    """Make the error of a setting that pydantic refuses. Where a value may be a secret, its own error tells enough."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if not name:
        return BadRequest(f"invalid settings: {first['ctx']['error'] if 'ctx' in first else first['msg']}", name)
    message = f"invalid setting {name}: {first['msg']}"
    if first["type"] == "extra_forbidden" and first["loc"][0] == "encoders":
        message = (
            f"invalid setting {name}: there is no such option, use one of {', '.join(EncoderOptions.model_fields)}"
        )
    elif first["type"] not in EncoderOptions.model_fields:
        message += f" (got {first['input']!r})"
    return BadRequest(message, name)


def _variable(setting: str) -> str:
    """Return the environment variable of a setting; a dot separates a section from its values."""
    return f"VETRINA_{setting.replace('.', '__').upper()}"


def load_settings(**overrides: Any) -> Settings:
    """Load the settings, with `overrides` on top (None is not set); raises BadRequest naming key, value and fix."""
    file = os.environ.get("VETRINA_CONFIG")
    if file and not Path(file).is_file():
        raise BadRequest(f"invalid VETRINA_CONFIG {file!r}: the file does not exist", "VETRINA_CONFIG")
    known = {_variable(name) for name in (*Settings.model_fields, *RENAMED)} | OTHER_VARIABLES
    unknown = sorted(name for name in os.environ if name.startswith("VETRINA_") and name.split("__")[0] not in known)
    if unknown:
        similar = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"did you mean {similar[0]}?" if similar else f"use {', '.join(sorted(known))}"
        raise BadRequest(f"unknown setting {', '.join(unknown)}: {hint}", unknown[0])
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except BadInput as error:
        raise BadRequest(error.message, error.field) from error
    except ValidationError as error:
        raise _invalid(error) from error
    except SettingsError as error:  # a variable that should contain JSON
        raise BadRequest(str(error), "settings") from error
    except ValueError as error:  # a TOML file that cannot be parsed
        raise BadRequest(f"{file or 'vetrina.toml'}: {error}", "vetrina.toml") from error
