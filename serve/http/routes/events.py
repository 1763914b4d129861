"""Route that records user events."""

import time

from fastapi import APIRouter, Response

from serve.http.request_parsing import LiveRelease, respond
from serve.schemas.events import EventsRequest, EventsResponse

router = APIRouter(tags=["Events"])


@router.post("/v1/events", response_model=EventsResponse, operation_id="recordEvents", summary="Record user events")
def record_events(body: EventsRequest, live: LiveRelease) -> Response:
    """Stores events durably and returns one status per event. They affect the next response of every process.

    Send an `event_id`, so that an event that is sent again counts once.
    """
    started = time.perf_counter()
    engine = live.engine
    return respond(engine, {"events": live.record_events(body.events, engine)}, started)
