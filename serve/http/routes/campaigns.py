"""The operations of campaigns: audiences of items and creatives, and copy for items."""

import time
from dataclasses import asdict

from fastapi import APIRouter, Response

from serve.campaigns.audience import AudienceQuery, Cap
from serve.http.request_parsing import ItemIdInPath, LiveRelease, respond
from serve.schemas.campaigns import AudienceRequest, AudienceResponse, CopyRequest, CopyResponse

router = APIRouter()


@router.post("/v1/audience", response_model=AudienceResponse, summary="Who will want this")
def audience(wanted: AudienceRequest, live: LiveRelease) -> Response:
    """The shoppers most likely to act. Never one who opted out of what is personal or of marketing."""
    started = time.perf_counter()
    engine = live.engine
    found = live.users.audiences.find(
        engine,
        AudienceQuery(
            wanted.size,
            wanted.item_id,
            wanted.text,
            wanted.image,
            wanted.campaign,
            None if wanted.cap is None else Cap(wanted.cap.times, wanted.cap.days),
            wanted.holdout,
            wanted.again,
        ),
    )
    if wanted.record:
        live.users.audiences.record(wanted.campaign, found)
    body = asdict(found) | {"curve": [{"size": size, "expected": expected} for size, expected in found.curve]}
    return respond(engine, body, started)


@router.post("/v1/items/{item_id}/copy", response_model=CopyResponse, summary="A short text for an item")
def write_copy(item_id: ItemIdInPath, wanted: CopyRequest, live: LiveRelease) -> Response:
    """States nothing that the item's entry does not have, whoever writes."""
    started = time.perf_counter()
    engine = live.engine
    item = engine.view.item(engine.item_index(item_id))
    made = live.copywriter(engine).write(item, wanted.style, wanted.language, wanted.segment)
    return respond(engine, asdict(made), started)
