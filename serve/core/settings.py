"""Settings: `vetrina.toml`, then `VETRINA_*` variables, then what the command line or a caller says."""

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from embed.behaviour import EVENT_TYPES, Signal
from embed.images import ImageLimits
from embed.towers.settings import TowerSettings
from serve.core.errors import BadRequest
from serve.core.languages import LANGUAGES
from serve.core.ranking_settings import HEADS, ScorerSettings

SERVED = "VETRINA_SERVED"  # the settings of the service as JSON, for its worker processes
RATES = "VETRINA_RATES"  # the file in which worker processes count the keys' requests together
# Variables that begin with VETRINA_ and are read elsewhere.
OTHER_VARIABLES = {
    RATES,
    SERVED,
    "VETRINA_CACHE",
    "VETRINA_CONFIG",
    "VETRINA_COPY_KEY",
    "VETRINA_DATA",
    "VETRINA_KEY",
    "VETRINA_MILVUS_TOKEN",
    "VETRINA_USER_KEY",
}


RETRIEVERS = ("tower", "covisitation", "popularity", "arrivals", "content", "knowledge")
"""What proposes recommendations: see serve.recommend.retrieval.retrievers."""


RENAMED = {
    "leave_out": "exclude_interactions",
    "log_answers": "log_impressions",
    "personal": "personalization",
    "source_weights": "retriever_weights",
}
"""Settings of version 0.1 by their names there, which are still accepted, and their present names."""


class HalfLives(BaseModel):
    """Days after which what was counted counts half."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    covisitation: float = Field(60.0, gt=0)
    popularity: float = Field(14.0, gt=0)
    arrivals: float = Field(14.0, gt=0)


class OnlineSettings(BaseModel):
    """How the scorer learns between its trainings, from what comes of answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    learn: bool = True
    prior: float = Field(500.0, gt=0, description="items shown after which what they say counts half")
    half_life_days: float = Field(7.0, gt=0)
    most_a_day: int = Field(20, ge=1, description="answers to one shopper that are learned from in a day")


class ExploreSettings(BaseModel):
    """Whether recommendations also show what is not quite the best by what is known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Literal["plackett_luce", "thompson"] = "plackett_luce"
    share: float = Field(0.0, ge=0, le=1, description="of the recommendations that do not say themselves")
    temperature: float = Field(0.2, gt=0, le=10, description="of a drawn list; little is close to the best order")
    floor: float = Field(0.8, ge=0, le=1, description="least score beside that of the k-th best of what may be drawn")


class CopySettings(BaseModel):
    """Who writes texts for items: the grammar, unless an endpoint or a model is named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field("", description="address of a server with OpenAI's chat completions, as http://host:8080/v1")
    model: str = Field(
        "", description="the endpoint's model; without an endpoint a transformers model's folder or name"
    )
    temperature: float = Field(0.3, ge=0, le=2)
    timeout_s: float = Field(20.0, gt=0, le=300)


class ReviewSettings(BaseModel):
    """Who judges images before they are shown; words and categories stand in review.toml in the store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classifier: str = Field("", description="module:function from Pillow images to probabilities, asked of each image")
    threshold: float = Field(0.5, gt=0, le=1, description="probability from which an item is not shown")


class Timeouts(BaseModel):
    """Seconds that a request waits, by what for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body: float = Field(30.0, gt=0, le=3600, description="for a request's body to arrive")
    events: float = Field(1.0, gt=0, le=60, description="for what a database on another machine knows of a shopper")
    answer: float = Field(1.0, gt=0, le=60, description="until an answer goes out as it is, without being reranked")
    stop: int = Field(30, ge=1, le=600, description="for requests that are under way when the service ends")


class GateSettings(BaseModel):
    """By how much a release may measure worse than the one before it and still be published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float = Field(0.05, ge=0, le=1, description="share of a figure that both have for the same shoppers")
    calibration: float = Field(0.02, ge=0, le=1, description="of the calibration error of clicks")
    recorded: float = Field(0.2, ge=0, le=1, description="share of figures that each has from its own training")
    recall: float = Field(0.05, ge=0, le=1, description="of an index's recall@10 below the target")


def _known_language(name: str) -> str:
    if name not in LANGUAGES:
        raise ValueError(f"language is one of {', '.join(LANGUAGES)}")
    return name


class Settings(BaseSettings):
    """Every setting with its default; an unknown key or variable is an error."""

    model_config = SettingsConfigDict(env_prefix="VETRINA_", extra="forbid", env_nested_delimiter="__")

    store: Path = Field(Path("store"), description="the one folder that holds everything")
    image_encoder: str = Field("bundled", description="bundled, or open_clip:MODEL/WEIGHTS")
    text_encoder: str = Field("bundled", description="bundled, or st:MODEL")
    align: bool = Field(
        True, description="whether builds learn from the catalogue how words and photos enter the image space"
    )
    language: Annotated[str, AfterValidator(_known_language)] = Field(
        "english", description="of the catalogue's words, whose endings are cut; none leaves them"
    )
    device: str = Field("auto", description="auto, cpu or cuda")
    threads: int = Field(0, ge=0, description="threads of one model or index call; 0 is one for each core")
    mapping: Path | None = Field(None, description="mapping file for a feed with its own column names")
    image_root: Path | None = Field(None, description="folder of local images; without it the feed's own folder")
    allow_http_images: bool = Field(False, description="whether http(s) images are fetched")
    image_stores: list[Literal["s3", "gs", "az"]] = Field([], description="object stores that images are read from")
    max_image_bytes: int = Field(20 << 20, gt=0)
    max_image_pixels: int = Field(50_000_000, gt=0)
    keep_releases: int = Field(3, ge=1, description="how many releases stay on disk")
    space_weights: dict[str, Annotated[float, Field(gt=0, le=100)]] = Field(
        {"image": 1.0, "text": 1.0, "keywords": 1.0},
        description="how much each space, and words as they are spelled, count when a request fuses several",
    )
    events_url: str = Field("", description="database of the events; without it SQLite in the store")
    event_weights: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        {"view": 0.5, "click": 1.0, "cart": 2.0, "purchase": 3.0, "rating": 1.0},
        description="how much each type of event says for its item; types that are not named say nothing",
    )
    liked_from: float = Field(4.0, description="the rating from which an item counts as liked")
    half_lives: HalfLives = HalfLives()
    retriever_weights: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        {}, description="factors on what the sources of recommendations learned to weigh; 0 turns one off"
    )
    exclude_interactions: list[Literal["seen", "cart", "purchase"]] = Field(
        ["seen", "cart", "purchase"], description="what recommendations leave out: items seen, in the cart, bought"
    )
    rules: Path | None = Field(None, description="the shop's rules; without it rules.toml in the store, if it is there")
    new_share: float = Field(
        0.1, ge=0, le=0.5, description="share of the places in recommendations for items that nobody had yet"
    )
    tail_share: float = Field(
        0.0, ge=0, le=0.9, description="share of the places in recommendations for items that few shoppers know yet"
    )
    calibration: float = Field(
        0.0, ge=0, le=1, description="how much recommendations keep to the categories of the shopper's own history"
    )
    recommend_unavailable: bool = Field(False, description="whether items that are not available are recommended")
    towers: TowerSettings = TowerSettings()
    scorer: ScorerSettings = ScorerSettings()
    head_values: dict[str, Annotated[float, Field(ge=0, le=1e6)]] = Field(
        {"click": 1.0, "cart": 3.0, "purchase": 10.0, "rating": 1.0},
        description="what each act is worth to the shop; the score is what can be expected of an item",
    )
    log_impressions: bool = Field(True, description="whether what was shown to shoppers is logged, to be learned from")
    online: OnlineSettings = OnlineSettings()
    explore: ExploreSettings = ExploreSettings()
    copywriting: CopySettings = CopySettings()
    review: ReviewSettings = ReviewSettings()
    gate: GateSettings = GateSettings()
    drift_alert: float = Field(
        0.25, gt=0, description="population stability index from which a feature of what is shown has drifted"
    )
    margin_attribute: str = Field(
        "",
        description="the items' attribute with what a purchase leaves the shop: a purchase is then worth more where "
        "that is more than the catalogue's mean, and less where it is less",
    )
    personalization: float = Field(
        0.25,
        ge=0,
        le=10,
        description="how much it counts in a shopper's search that an item suits, for each one of relevance",
    )
    recall_target: float = Field(0.95, gt=0, le=1, description="share of the ten nearest that an index has to find")
    index_memory_mb: int | None = Field(None, gt=0, description="MiB that the index of one space may take")
    index_engine: Literal["faiss", "milvus"] = Field("faiss", description="what keeps the vectors of a release")
    milvus_uri: str = Field("", description="address of a Milvus server, or a path that ends in .db for milvus-lite")
    milvus_prefix: str = Field("vetrina", pattern=r"^[A-Za-z][A-Za-z0-9_]*$", description="how its collections begin")
    workers: int = Field(1, ge=1, le=256, description="processes that answer")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    max_request_bytes: int = Field(32 << 20, gt=0)
    rate_limit: float = Field(100.0, gt=0, le=1_000_000, description="requests a second of a key without its own rate")
    cors_origins: list[Annotated[str, Field(pattern=r"^https?://[^/*\s]+$")]] = Field(
        [], description="origins, as https://shop.example, whose pages may call from the browser"
    )
    timeouts: Timeouts = Timeouts()
    shed_above_ms: float = Field(
        80.0, gt=0, description="milliseconds within which 19 in 20 answers are to be: requests beyond get 503"
    )
    recall_probe_seconds: float = Field(
        10.0, ge=0, description="seconds between live queries that are searched exactly too; 0 is never"
    )
    log_format: Literal["auto", "text", "json"] = Field("auto", description="auto is text on a terminal, else JSON")
    access_log: bool = Field(False, description="whether every request is logged, not only slow and failed ones")
    otel: bool = Field(False, description="whether requests are traced by OpenTelemetry; it reads OTEL_* variables")

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
        toml.init_kwargs = {RENAMED.get(name, name): value for name, value in toml.init_kwargs.items()}
        assert isinstance(env_settings, EnvSettingsSource)  # noqa: S101
        old_variables = {f"vetrina_{old}": f"vetrina_{new}" for old, new in RENAMED.items()}
        env_settings.env_vars = {old_variables.get(name, name): value for name, value in env_settings.env_vars.items()}
        return init_settings, env_settings, toml

    @model_validator(mode="after")
    def _check_milvus(self) -> "Settings":
        if self.index_engine == "milvus" and not self.milvus_uri:
            raise ValueError("index_engine is milvus: set milvus_uri")
        if "@" in self.milvus_uri:  # it is written into releases
            raise ValueError("milvus_uri holds a password: give it in VETRINA_MILVUS_TOKEN (user:password)")
        return self

    @model_validator(mode="after")
    def _check_names(self) -> "Settings":
        for name, given, known in (
            ("event_weights", self.event_weights, EVENT_TYPES),
            ("source_weights", self.retriever_weights, RETRIEVERS),
            ("head_values", self.head_values, HEADS),
        ):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"{name} has {unknown[0]!r}: known are {', '.join(known)}")
        return self

    @property
    def signal(self) -> Signal:
        """What events say for their items."""
        return Signal(self.event_weights, self.liked_from)

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels)


def load_settings(**given: Any) -> Settings:
    """Settings with `given` on top (None means not given); raises BadRequest naming the key, value and fix."""
    configured = os.environ.get("VETRINA_CONFIG")
    if configured and not Path(configured).is_file():
        raise BadRequest(f"VETRINA_CONFIG names {configured!r}, which is no file", "VETRINA_CONFIG")
    known = {f"VETRINA_{name.upper()}" for name in (*Settings.model_fields, *RENAMED)} | OTHER_VARIABLES
    unknown = sorted(name for name in os.environ if name.startswith("VETRINA_") and name.split("__")[0] not in known)
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
        raise BadRequest(f"there is no setting {', '.join(unknown)}: {hint}", unknown[0])
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        given_value = f" (got {first['input']!r})" if name else ""
        raise BadRequest(
            f"setting {name}: {first['msg']}{given_value}".replace("setting :", "settings:"), name
        ) from error
    except SettingsError as error:  # a variable that should hold JSON
        raise BadRequest(str(error), "settings") from error
    except ValueError as error:  # a TOML file that does not parse
        raise BadRequest(f"{configured or 'vetrina.toml'}: {error}", "vetrina.toml") from error
