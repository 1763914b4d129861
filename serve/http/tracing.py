"""OpenTelemetry: a span for each request, with one for each of its stages, sent where the OTEL_* variables say.

Spans name the route, never the path: ids of shoppers are in paths.
"""

from importlib.metadata import version

from serve.core import request_context
from serve.core.errors import BadRequest


def start_tracing() -> None:
    """Trace this process's requests; raises BadRequest where OpenTelemetry is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise BadRequest(f"otel = true needs OpenTelemetry ({error}): pip install 'vetrina[otel]'", "otel") from error
    # What the variables say has the last word.
    provider = TracerProvider(
        resource=Resource.create({"service.name": "vetrina"}).merge(OTELResourceDetector().detect())
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    # Not the global one, with which FastAPI would make spans of its own, that have paths and messages in them.
    request_context.trace_with(provider.get_tracer("vetrina", version("vetrina")))
