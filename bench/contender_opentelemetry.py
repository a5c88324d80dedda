"""OpenTelemetry's side of each row: the SDK as its documentation sets it up, with an exporter that does nothing.

Spans go through a ``BatchSpanProcessor`` whose queue is drained between chunks, so that it is never full
and its thread never competes with the chunk. Propagators are the default ones (W3C trace context and baggage).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract, inject
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import inputs
from .measure import Subject
from .subjects import WITH_SPAN, asgi_request, reading, writing, wsgi_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

VERSION = version("opentelemetry-sdk")


class _NullExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def _processor(exporter: SpanExporter) -> BatchSpanProcessor:
    return BatchSpanProcessor(
        exporter, max_queue_size=1 << 16, schedule_delay_millis=3_600_000, max_export_batch_size=1 << 15
    )


def provider() -> tuple[TracerProvider, Callable[[], object]]:
    """Return a provider with a BatchSpanProcessor, and the function that drains its queue."""
    made = TracerProvider()
    processor = _processor(_NullExporter())
    made.add_span_processor(processor)
    return made, processor.force_flush


def subjects() -> dict[str, Subject]:
    """Return the measured subject of each row, under the row's key."""
    recording, flush = provider()
    tracer = recording.get_tracer("bench")
    span = tracer.start_as_current_span
    never_provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF))
    never_provider.add_span_processor(_processor(_NullExporter()))
    never = never_provider.get_tracer("bench")

    def parent() -> AbstractContextManager[object]:
        return span("parent")

    @contextmanager
    def unsampled_parent() -> Iterator[None]:
        with never.start_as_current_span("parent"):
            yield

    def export_many() -> None:
        for _ in range(2000):
            with span("work"):
                pass
        flush()

    def set_and_inject() -> None:
        context = Context()
        for key, value in inputs.EIGHT.items():
            context = baggage.set_baggage(key, value, context)
        inject({}, context)

    recorded = tracer.start_span("recorded")
    in_recorded = trace.set_span_in_context(recorded)
    propagator = TraceContextTextMapPropagator()
    found = {
        "child": Subject(WITH_SPAN, {"span": span}, parent, flush),
        "root": Subject(WITH_SPAN, {"span": span}, after=flush),
        "exported": Subject("export()", {"export": export_many}, parent, chunk=1, units=2000),
        "start_end": Subject("start('work').end()", {"start": tracer.start_span}, parent, flush),
        "unsampled_root": Subject(WITH_SPAN, {"span": never.start_as_current_span}),
        "unsampled_child": Subject(WITH_SPAN, {"span": never.start_as_current_span}, unsampled_parent),
        "off": Subject(WITH_SPAN, {"span": trace.NoOpTracerProvider().get_tracer("bench").start_as_current_span}),
        "set_attribute": Subject("span.set_attribute('cart.items', 3)", {"span": recorded}),
        "set_attribute_unsampled": Subject(
            "span.set_attribute('cart.items', 3)", {"span": never.start_span("not sampled")}
        ),
        "current_span": Subject("current_span()", {"current_span": trace.get_current_span}, parent, flush),
        **reading(extract),
        "extract_8_labels": Subject("extract(carrier)", {"extract": extract, "carrier": inputs.EIGHT_LABELS}),
        **writing(inject, extract, parent, flush),
        "look_8_labels": Subject(
            "get_baggage('key-3', extract(carrier))",
            {"extract": extract, "get_baggage": baggage.get_baggage, "carrier": inputs.EIGHT_LABELS},
        ),
        "set_8_labels": Subject("set_and_inject()", {"set_and_inject": set_and_inject}),
        "read_parent": Subject("read(carrier)", {"read": propagator.extract, "carrier": inputs.PARENT_ONLY}),
        "read_state": Subject("read(carrier)", {"read": propagator.extract, "carrier": inputs.PARENT_AND_STATE}),
        "write_parent": Subject("write({}, context)", {"write": propagator.inject, "context": in_recorded}),
    }
    try:
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    except ModuleNotFoundError:
        pass
    else:
        found["otlp"] = Subject(
            "encode(spans).SerializeToString()",
            {"encode": encode_spans, "spans": hold(inputs.BATCH)[: inputs.BATCH]},
            chunk=1,
            units=inputs.BATCH,
        )
    try:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
    except ModuleNotFoundError:
        return found
    # Its spans for each receive and send, which no other contender makes, are left out: they would cost it 80 % more.
    app = OpenTelemetryMiddleware(inputs.application(), tracer_provider=recording, exclude_spans=["receive", "send"])
    found["asgi"] = asgi_request(app, flush)
    try:
        from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware as WsgiMiddleware
    except ModuleNotFoundError:
        return found
    found["wsgi"] = wsgi_request(WsgiMiddleware(inputs.wsgi_application, tracer_provider=recording), flush)
    return found


def hold(count: int) -> list[ReadableSpan]:
    """Return *count* finished spans, with five attributes and an event each, as the exporter gets them."""
    kept: list[ReadableSpan] = []

    class Keep(_NullExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            kept.extend(spans)
            return SpanExportResult.SUCCESS

    kept_by = TracerProvider()
    kept_by.add_span_processor(_processor(Keep()))
    tracer = kept_by.get_tracer("bench")
    with tracer.start_as_current_span("parent"):
        for number in range(count):
            with tracer.start_as_current_span("work", attributes=inputs.attributes_of(number)) as span:
                span.add_event("cache miss")
    del span
    kept_by.shutdown()
    return kept
