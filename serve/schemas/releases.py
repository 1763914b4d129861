"""Responses that list releases."""

from typing import Any

from pydantic import BaseModel

from serve.schemas.common import ResponseBase


class ReleaseSummary(BaseModel):
    """A release that is on disk."""

    release: str
    current: bool
    created_at: str
    items: int
    spaces: dict[str, dict[str, Any]]


class ReleasesResponse(ResponseBase):
    """The releases of the store, newest first; `release` is the one that answers now, with `changes` on top."""

    changes: dict[str, int]
    releases: list[ReleaseSummary]
