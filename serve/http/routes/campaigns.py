"""Routes for campaigns: audiences for items and creatives, texts for items."""

import time
from dataclasses import asdict
from functools import cached_property
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from serve.campaigns.audience import AudienceFinder, AudienceQuery, FrequencyCap
from serve.campaigns.copywriter import Copywriter, brands_of
from serve.campaigns.user_table import UserTableCache
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.http.openapi import NOT_FOUND
from serve.http.request_parsing import ItemIdInPath, LiveRelease, respond
from serve.live.user_state import UserState
from serve.schemas.campaigns import AudienceRequest, AudienceResponse, CopyRequest, CopyResponse

router = APIRouter(tags=["Campaigns"])


class CampaignService:
    """The audiences and the copywriter of a service. Built on first use; safe in several threads."""

    def __init__(self, settings: Settings, users: UserState) -> None:
        self._settings, self._users = settings, users
        self._copywriters: dict[str, Copywriter] = {}  # by release

    @cached_property
    def audiences(self) -> AudienceFinder:
        """Finds audiences."""
        events, privacy = self._users.events, self._users.privacy
        return AudienceFinder(events, privacy, UserTableCache(events, privacy, self._settings))

    def copywriter(self, engine: Engine) -> Copywriter:
        """Return the copywriter for the items of a release."""
        release = engine.snapshot.release
        if release.name not in self._copywriters:
            self._copywriters = {release.name: Copywriter(self._settings.copywriting, brands_of(release.catalogue))}
        return self._copywriters[release.name]


async def get_campaigns(request: Request) -> CampaignService:
    """Return the campaign service of the app."""
    campaigns: CampaignService = request.app.state.campaigns
    return campaigns


Campaigns = Annotated[CampaignService, Depends(get_campaigns)]


@router.post(
    "/v1/audience",
    response_model=AudienceResponse,
    operation_id="findAudience",
    summary="Find an audience",
    responses=NOT_FOUND,
)
def find_audience(body: AudienceRequest, live: LiveRelease, campaigns: Campaigns) -> Response:
    """Returns the users who will most probably interact with an item or a creative.

    Users who opted out of personalization or marketing are always excluded.
    """
    started = time.perf_counter()
    engine = live.engine
    audience = campaigns.audiences.find(
        engine,
        AudienceQuery(
            body.size,
            body.item_id,
            body.text,
            body.image,
            body.campaign,
            None if body.cap is None else FrequencyCap(body.cap.times, body.cap.days),
            body.holdout,
            body.again,
        ),
    )
    if body.record:
        campaigns.audiences.record(body.campaign, audience)
    curve = [{"size": size, "expected": expected} for size, expected in audience.curve]
    return respond(engine, asdict(audience) | {"curve": curve}, started)


@router.post(
    "/v1/items/{item_id}/copy",
    response_model=CopyResponse,
    operation_id="writeItemCopy",
    summary="Write a text for an item",
    responses=NOT_FOUND,
)
def write_item_copy(item_id: ItemIdInPath, body: CopyRequest, live: LiveRelease, campaigns: Campaigns) -> Response:
    """Returns a text that states only facts from the item's catalogue entry, whether from a template or a model."""
    started = time.perf_counter()
    engine = live.engine
    item = engine.snapshot.item(engine.item_index(item_id))
    copy = campaigns.copywriter(engine).write(item, body.style, body.language, body.segment)
    return respond(engine, asdict(copy), started)
