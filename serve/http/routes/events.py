"""Route that records user events."""

import time

from fastapi import APIRouter, Response

from serve.http.request_parsing import LiveRelease, respond
from serve.schemas.events import EventsRequest, EventsResponse

router = APIRouter()


@router.post("/v1/events", response_model=EventsResponse, summary="What shoppers did")
def events(wanted: EventsRequest, live: LiveRelease) -> Response:
    """Durable when this answers, and the very next answer of every process goes by it. Send an `event_id`, so that
    what is sent again is known again. Each event has a status of its own."""
    started = time.perf_counter()
    engine = live.engine
    taken = live.take_events(wanted.events, engine)
    return respond(engine, {"events": taken}, started)
