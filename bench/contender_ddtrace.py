"""ddtrace's side of each row: a filter drops every finished trace, so that nothing is encoded or sent.

Formats are limited to those of the other contenders: W3C trace context and baggage.
"""

from __future__ import annotations

import os

# Read once, when ddtrace is imported. Nothing may leave the process: what reaches for an agent finds no socket.
os.environ.update(
    DD_CRASHTRACKING_ENABLED="false",
    DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
    DD_REMOTE_CONFIGURATION_ENABLED="false",
    DD_RUNTIME_METRICS_ENABLED="false",
    DD_TRACE_AGENT_URL="unix:///nonexistent/agent.sock",
    DD_TRACE_PROPAGATION_STYLE="tracecontext,baggage",
    DD_TRACE_STARTUP_LOGS="false",
    DD_TRACE_STATS_COMPUTATION_ENABLED="false",
)

from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import ddtrace
from ddtrace.propagation.http import HTTPPropagator
from ddtrace.trace import Span, TraceFilter, tracer

from . import inputs
from .measure import Subject
from .subjects import WITH_SPAN, asgi_request, reading

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = ddtrace.__version__

USER_REJECT = -1


class _Drop(TraceFilter):
    kept: list[Span] | None = None

    def process_trace(self, trace: list[Span]) -> None:
        if self.kept is not None:
            self.kept.extend(trace)


_filter = _Drop()
tracer.configure(trace_processors=[_filter])


def subjects() -> dict[str, Subject]:
    """Return the measured subject of each row, under the row's key."""
    span, extract, inject = tracer.trace, HTTPPropagator.extract, HTTPPropagator.inject

    def parent() -> AbstractContextManager[object]:
        return span("parent")

    @contextmanager
    def unsampled_parent() -> Iterator[None]:
        with span("parent") as root:
            root.context.sampling_priority = USER_REJECT
            yield

    recorded = Span("recorded")  # of no trace of the tracer's, which would miss it at exit
    found = {
        "child": Subject(WITH_SPAN, {"span": span}, parent),
        "root": Subject(WITH_SPAN, {"span": span}),
        "start_end": Subject(
            "start('work', child_of=current()).finish()",
            {"start": tracer.start_span, "current": tracer.current_span},
            parent,
        ),
        "unsampled_child": Subject(WITH_SPAN, {"span": span}, unsampled_parent),
        "set_attribute": Subject("span.set_tag('cart.items', 3)", {"span": recorded}),
        "current_span": Subject("current_span()", {"current_span": tracer.current_span}, parent),
        **reading(extract),
        "inject_parent": Subject("inject(context, {})", {"inject": inject, "context": recorded.context}),
    }
    from ddtrace.contrib.asgi import TraceMiddleware

    found["asgi"] = asgi_request(TraceMiddleware(inputs.application()))
    return found


def hold(count: int) -> object:
    """Return *count* finished spans, with five attributes and an event each, as the writer gets them."""
    _filter.kept = kept = []
    try:
        with tracer.trace("parent"):
            for number in range(count):
                with tracer.trace("work") as span:
                    span.set_tags(inputs.attributes_of(number))
                    span._add_event("cache miss")
    finally:
        _filter.kept = None
    return kept
