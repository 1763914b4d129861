"""Requests and responses for operators: caller, health, catalogue report, activity, content policy."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from serve.schemas.common import ResponseBase, Strict
from serve.security.access_mode import AuthMode
from serve.security.api_keys import Scope


class HealthResponse(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = Field(description="always `ok`")


class ReadinessResponse(BaseModel):
    """A release is loaded."""

    status: Literal["ready"] = Field(description="always `ready`")
    release: str = Field(description="active release")


class CallerResponse(BaseModel):
    """The key of the caller."""

    request_id: str = Field(description="id of this request")
    auth: AuthMode = Field(description="keys if this service requires keys; none if the store is keyless")
    name: str = Field(description="name of the key; empty without one")
    scopes: list[Scope] = Field(description="scopes of the key; all of them if no key is required")


class PageQuery(Strict):
    """Query parameters of a page of a long list."""

    offset: int = Field(0, ge=0, le=100_000_000, description="number of rows to skip")
    limit: int = Field(100, ge=0, le=1000, description="maximum number of rows to return")


class LatestQuery(Strict):
    """Query parameters of a list of the latest entries."""

    k: int = Field(50, ge=1, le=1000, description="maximum number of entries to return")


class CatalogueReportResponse(ResponseBase):
    """The report of the last feed, and a page of its rejected rows."""

    report: dict[str, Any] = Field(description="numbers of rows read, kept, repaired and rejected, by reason")
    total: int = Field(description="number of rejected rows")
    rejects: list[dict[str, Any]] = Field(description="rejected rows with line, id and reason")


class EventRate(BaseModel):
    """The number of events of one type in one hour."""

    start: str = Field(description="start of the hour, ISO 8601, UTC")
    type: str = Field(description="type of the events")
    count: int = Field(description="number of events")


class FeatureDrift(BaseModel):
    """The drift of a feature of shown items since the release was built."""

    feature: str = Field(description="name of the feature")
    psi: float = Field(description="population stability index")
    alert: bool = Field(description="true if `psi` exceeds the setting `drift_alert`")


class ActivityResponse(ResponseBase):
    """Service activity."""

    events: list[EventRate] = Field(description="events of the last 48 hours, by hour and type")
    drift: list[FeatureDrift] = Field(description="drift as measured by this process, largest first")
    experiment: dict[str, Any] | None = Field(description="report of the running A/B test; null if none runs")
    impressions_dropped: int = Field(description="impressions that could not be logged since the service started")


class HiddenItem(BaseModel):
    """An item that the content policy hides."""

    item_id: str = Field(description="id of the item")
    title: str | None = Field(description="title of the item")
    reason: str = Field(description="reason why it is hidden")


class ReviewResponse(ResponseBase):
    """The content policy and the items it hides."""

    words: list[str] = Field(description="blocked words")
    categories: list[str] = Field(description="blocked categories")
    total: int = Field(description="number of hidden items")
    hidden: list[HiddenItem] = Field(description="a page of the hidden items")
