"""What scenarios have other processes do; imported there, so it imports little."""

from __future__ import annotations

import contextlib
import os


def work(tracer, *names):
    """Open a span in a span, with the tracer of the scenario."""
    with contextlib.ExitStack() as stack:
        for name in names:
            if name == "fail":
                raise ValueError("broken")
            stack.enter_context(_span(tracer, name))
    return os.getpid()


def _span(tracer, name):
    if tracer == "tracekit":
        import tracekit

        return tracekit.span(name)
    if tracer.startswith("OpenTelemetry"):
        from opentelemetry import trace

        return trace.get_tracer("guarantees").start_as_current_span(name)
    from ddtrace.trace import tracer as datadog

    return datadog.trace(name)


def trace_here(tracer):
    """Return the id of the trace that is current here."""
    if tracer == "tracekit":
        import tracekit

        context = tracekit.current_context()
        return context and context.trace_id
    if tracer.startswith("OpenTelemetry"):
        from opentelemetry import trace

        context = trace.get_current_span().get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else None
    from ddtrace.trace import tracer as datadog

    context = datadog.current_trace_context()
    return context and f"{context.trace_id:032x}"
