"""The request that is being answered: its id, how long its stages take, and what was left out for lack of time.

Every stage that waits for something outside has a timeout of its own. An answer that is late already is not refined any
further, and says so: `partial` names what it goes without.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from uuid import uuid4

from serve.core.metrics import PARTIAL, STAGES

STAGE_NAMES = ("events", "encode", "words", "search", "candidates", "rank", "answer")
_TIMERS = {name: STAGES.labels(name) for name in STAGE_NAMES}
_tracer: Any = None  # of OpenTelemetry, where it is on


@dataclass
class RequestContext:
    """A request: the id it is logged and answered by, when it is late (monotonic), and what its answer goes without."""

    id: str = field(default_factory=lambda: uuid4().hex)
    late_from: float = float("inf")
    partial: list[str] = field(default_factory=list)


_CURRENT: ContextVar[RequestContext | None] = ContextVar("answering", default=None)


def begin_request(answering: RequestContext) -> None:
    """From here on, in this context and in threads that are started for it, this request is being answered."""
    _CURRENT.set(answering)


def current() -> RequestContext:
    """The request that is being answered; outside of the service one of its own."""
    return _CURRENT.get() or RequestContext()


def request_id() -> str:
    """The id of the request that is being answered, empty where none is."""
    answering = _CURRENT.get()
    return "" if answering is None else answering.id


def is_late() -> bool:
    """Whether the answer should go out as it is."""
    answering = _CURRENT.get()
    return answering is not None and time.monotonic() > answering.late_from


def mark_partial(what: str) -> None:
    """Say that the answer goes without something."""
    PARTIAL.labels(what).inc()
    answering = _CURRENT.get()
    if answering is not None and what not in answering.partial:
        answering.partial.append(what)


class stage:  # noqa: N801  read as a statement: with stage("rank")
    """Times a stage of a request, and traces it where OpenTelemetry is on."""

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._span = span(self._name)
        self._span.__enter__()
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _TIMERS[self._name].observe(time.perf_counter() - self._started)
        self._span.__exit__(kind, error, trace)


def span(name: str) -> AbstractContextManager[Any]:
    """A span of OpenTelemetry; nothing where that is off."""
    return nullcontext() if _tracer is None else _tracer.start_as_current_span(name)


def request_span(headers: Mapping[str, str]) -> AbstractContextManager[Any]:
    """The span of a request, in the trace that its headers tell of, if they do."""
    if _tracer is None:
        return nullcontext()
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    return _tracer.start_as_current_span("request", context=extract(headers), kind=SpanKind.SERVER)  # type: ignore[no-any-return]


def trace_with(tracer: Any) -> None:
    """Trace stages with a tracer of OpenTelemetry, None to stop."""
    global _tracer  # noqa: PLW0603  one for the process, as OpenTelemetry's own
    _tracer = tracer
