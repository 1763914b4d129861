"""Routes for monitoring: liveness, readiness, Prometheus metrics."""

from fastapi import APIRouter, Response
from starlette.responses import PlainTextResponse

from serve.core.metrics import render_metrics
from serve.http.request_parsing import LiveRelease
from serve.schemas.operations import HealthResponse, ReadinessResponse

router = APIRouter(tags=["Operations"])


@router.get("/healthz", operation_id="getHealth", summary="Check liveness")
async def healthz() -> HealthResponse:
    """Responds as long as the process is alive."""
    return HealthResponse(status="ok")


@router.get(
    "/metrics", operation_id="getMetrics", summary="Export Prometheus metrics", response_class=PlainTextResponse
)
def metrics() -> Response:
    """Returns counters and gauges of all processes of the service in the Prometheus text format."""
    text, content_type = render_metrics()
    return Response(text, media_type=content_type)


@router.get("/readyz", operation_id="getReadiness", summary="Check readiness")
async def readyz(live: LiveRelease) -> ReadinessResponse:
    """Responds as soon as a release is loaded, with 503 before."""
    return ReadinessResponse(status="ready", release=live.engine.snapshot.release.name)
