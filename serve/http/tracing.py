"""OpenTelemetry traces: a span for each request and for each of its stages, exported as the OTEL_* variables state.

Spans contain the route and never the path, because paths may contain ids of users.
"""

from importlib.metadata import version

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.core import request_context
from serve.core.errors import BadRequest


class RequestTracing:
    """Middleware that wraps each request in a span, while tracing is on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not request_context.is_tracing():
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with request_context.request_span(Headers(scope=scope)) as span:
            await self._app(scope, receive, send_and_note_status)
            route = getattr(scope.get("route"), "path", "other")
            span.update_name(f"{scope['method']} {route}")
            span.set_attributes(
                {
                    "http.request.method": scope["method"],
                    "http.route": route,
                    "http.response.status_code": status,
                    "vetrina.request_id": request_context.request_id(),
                }
            )


def start_tracing() -> None:
    """Trace the requests of this process. Raises BadRequest if OpenTelemetry is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise BadRequest(f"otel = true needs OpenTelemetry ({error}): pip install 'vetrina[otel]'", "otel") from error
    # The OTEL_* variables override the service name.
    provider = TracerProvider(
        resource=Resource.create({"service.name": "vetrina"}).merge(OTELResourceDetector().detect())
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    # Not the global provider: with that, FastAPI would add spans of its own, which contain paths and messages.
    request_context.trace_with(provider.get_tracer("vetrina", version("vetrina")))
