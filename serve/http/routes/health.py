"""Routes for monitoring: liveness, readiness, Prometheus metrics."""

from fastapi import APIRouter, Response
from starlette.responses import PlainTextResponse

from serve.core.metrics import exposed
from serve.http.request_parsing import LiveRelease

router = APIRouter()


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/metrics", summary="What Prometheus reads", response_class=PlainTextResponse)
def metrics() -> Response:
    """Counts and gauges of all processes that answer."""
    body, kind = exposed()
    return Response(body, media_type=kind)


@router.get("/readyz", summary="Whether a release is loaded")
async def readyz(live: LiveRelease) -> dict[str, str]:
    return {"status": "ready", "release": live.engine.view.release.name}
