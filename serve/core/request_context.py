"""The current request: its id, the durations of its stages, and the parts that its response omits for lack of time.

Every stage that waits for another system has its own timeout. A response that is late already is not refined further;
its field `partial` names what is missing.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from secrets import token_hex
from types import TracebackType
from typing import Any

from serve.core.metrics import PARTIAL, STAGES

STAGE_NAMES = ("events", "encode", "keywords", "search", "candidates", "rank", "response")
_TIMERS = {name: STAGES.labels(name) for name in STAGE_NAMES}
_tracer: Any = None  # of OpenTelemetry, where it is on


@dataclass
class RequestContext:
    """A request: its id in logs and responses, the monotonic time from which it is late, and the parts it omits."""

    id: str = field(default_factory=lambda: token_hex(16))
    late_from: float = float("inf")
    partial: list[str] = field(default_factory=list)


_CURRENT: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def begin_request(context: RequestContext) -> None:
    """Make a request the current one, in this context and in threads that are started for it."""
    _CURRENT.set(context)


def current() -> RequestContext:
    """Return the current request; outside of the service, a new one."""
    return _CURRENT.get() or RequestContext()


def request_id() -> str:
    """Return the id of the current request, or an empty string."""
    context = _CURRENT.get()
    return "" if context is None else context.id


def is_late() -> bool:
    """Return whether the response should be sent without further refinement."""
    context = _CURRENT.get()
    return context is not None and time.monotonic() > context.late_from


def mark_partial(part: str) -> None:
    """Record that the response omits a part."""
    PARTIAL.labels(part).inc()
    context = _CURRENT.get()
    if context is not None and part not in context.partial:
        context.partial.append(part)


class stage:  # noqa: N801  read as a statement: with stage("rank")
    """Times a stage of a request, and traces it if OpenTelemetry is on."""

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._span = _stage_span(self._name)
        self._span.__enter__()
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _TIMERS[self._name].observe(time.perf_counter() - self._started)
        self._span.__exit__(kind, error, trace)


def trace_with(tracer: Any) -> None:
    """Trace requests and stages with an OpenTelemetry tracer; None stops tracing."""
    global _tracer  # noqa: PLW0603  one for the process, as OpenTelemetry's own
    _tracer = tracer


def is_tracing() -> bool:
    """Return whether requests and stages are traced."""
    return _tracer is not None


def request_span(headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """Return the span of a request, as a child of the trace that its headers name; only while tracing is on."""
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    return _tracer.start_as_current_span("request", context=extract(headers), kind=SpanKind.SERVER)  # type: ignore[no-any-return]


def _stage_span(name: str) -> AbstractContextManager[Any]:
    return nullcontext() if _tracer is None else _tracer.start_as_current_span(name)
