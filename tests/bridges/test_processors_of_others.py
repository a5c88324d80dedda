"""Span processors and exporters that other projects made, on the spans of both APIs.

fastotel and OpenTelemetry's OTLP exporter are in the test extra. logfire and openinference are not, as they bring many
packages: ``pip install logfire openinference-instrumentation-pydantic-ai`` runs their tests.
"""

from __future__ import annotations

import threading

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tracekit

from ..exporters.collector import Collector, refuse

pytestmark = pytest.mark.slow


@pytest.fixture
def memory():
    return InMemorySpanExporter()


def _shop():
    """Make a trace of spans of both APIs."""
    with (
        tracekit.span("native", kind="server", attributes={"n": 1, "list": [1, 2]}) as native,
        trace.get_tracer("library", "1.2").start_as_current_span("otel") as otel,
    ):
        otel.set_attribute("a", "b")
        otel.add_event("event", {"x": 1})
        native.add_link(tracekit.SpanContext("1" * 32, "2" * 16, 1), {"why": "batch"})
        tracekit.span("failed").end()
        native.set_status("error", "broken")
    return native


def _check(collector, native):
    found = {span.name: span for span in collector.spans}
    assert sorted(found) == ["failed", "native", "otel"]
    made = found["native"]
    assert made.trace_id.hex() == native.context.trace_id
    assert (made.span_id.hex(), made.kind, made.status.message) == (native.context.span_id, 2, "broken")
    assert (made.start_time_unix_nano, made.end_time_unix_nano) == (native.start_ns, native.end_ns)
    assert found["otel"].parent_span_id == made.span_id
    assert [event.name for event in found["otel"].events] == ["event"]
    assert [link.span_id.hex() for link in made.links] == ["2" * 16]
    assert {item.key for item in made.attributes} == {"n", "list"}
    scopes = {
        (each.scope.name, span.name)
        for request in collector.requests
        for resource in request.resource_spans
        for each in resource.scope_spans
        for span in each.spans
    }
    assert scopes == {("tracekit", "native"), ("library", "otel"), ("tracekit", "failed")}


def _otlp_exporter(url):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=5))


def _fastotel(url):
    from fastotel import OTLPSpanProcessor

    return OTLPSpanProcessor(endpoint=url, timeout=5)


@pytest.mark.parametrize("make", [_otlp_exporter, _fastotel])
def test_an_otlp_collector_gets_the_spans_of_both_apis(exporter, provider, make):
    with Collector() as collector:
        processor = make(f"{collector.url}/v1/traces")
        provider.add_span_processor(processor)
        native = _shop()
        assert provider.force_flush(20_000)
        processor.shutdown()
        _check(collector, native)
    assert len(exporter.spans) == 3


@pytest.mark.parametrize("make", [_otlp_exporter, _fastotel])
def test_a_collector_that_rejects_does_not_reach_the_program(exporter, provider, make, caplog):
    before = tracekit.statistics()
    with Collector(refuse(400)) as collector:
        processor = make(f"{collector.url}/v1/traces")
        provider.add_span_processor(processor)
        _shop()
        processor.shutdown()
    assert len(exporter.spans) == 3
    after = tracekit.statistics()
    assert (after.exported - before.exported, after.failed) == (3, before.failed)


def _logfire():
    pytest.importorskip("logfire", reason="pip install logfire")
    import logfire._internal.baggage as baggage
    import logfire._internal.exporters.dynamic_batch as dynamic_batch
    import logfire._internal.exporters.processor_wrapper as wrapper
    import logfire._internal.scrubbing as scrubbing
    import logfire._internal.tracer as tracer
    import logfire.sampling._tail_sampling as sampling

    return {
        "batch": dynamic_batch.DynamicBatchSpanProcessor,
        "baggage": baggage.DirectBaggageAttributesSpanProcessor,
        "main": lambda inner: wrapper.CheckSuppressInstrumentationProcessorWrapper(
            wrapper.MainSpanProcessorWrapper(inner, scrubbing.Scrubber([]))
        ),
        "pending": tracer.PendingSpanProcessor,
        "tail": sampling.TailSamplingProcessor,
    }


@pytest.fixture
def logfire():
    return _logfire()


def test_logfires_batches_and_scrubbing(provider, memory, logfire):
    provider.add_span_processor(logfire["main"](logfire["batch"](memory)))
    with tracekit.span("native", attributes={"password": "hunter2", "a": 1}):
        trace.get_tracer("library").start_span("otel").end()
    assert provider.force_flush()
    otel, native = memory.get_finished_spans()
    assert (native.name, otel.parent.span_id) == ("native", native.context.span_id)
    assert native.attributes["a"] == 1
    assert "hunter2" not in str(native.attributes)


def test_logfires_baggage_becomes_attributes(exporter, provider, logfire):
    provider.add_span_processor(logfire["baggage"]())
    with tracekit.use_labels(user="ada"), tracekit.span("native"):
        trace.get_tracer("library").start_span("otel").end()
    assert [dict(span.attributes) for span in exporter.spans] == [{"user": "ada"}, {"user": "ada"}]


def test_logfires_pending_spans_come_at_the_start(provider, memory, logfire):
    inner = SimpleSpanProcessor(memory)
    provider.add_span_processor(logfire["pending"](provider.id_generator, inner))
    with tracekit.span("native", attributes={"logfire.span_type": "span"}) as native:
        (pending,) = memory.get_finished_spans()
        assert pending.name == "native"
        assert f"{pending.parent.span_id:016x}" == native.context.span_id
        assert pending.attributes["logfire.span_type"] == "pending_span"


def test_logfires_tail_sampling_holds_a_trace_until_it_matters(provider, memory, logfire):
    inner = SimpleSpanProcessor(memory)
    provider.add_span_processor(logfire["tail"](inner, lambda seen: float(seen.span.name == "matters")))
    with tracekit.span("kept"):
        assert memory.get_finished_spans() == ()
        with tracekit.span("matters"):
            pass
    with tracekit.span("dropped"), tracekit.span("child"):
        pass
    assert [span.name for span in memory.get_finished_spans()] == ["matters", "kept"]


def test_openinferences_processor_runs_on_the_spans_of_both_apis(exporter, provider, caplog):
    kind = pytest.importorskip(
        "openinference.instrumentation.pydantic_ai", reason="pip install openinference-instrumentation-pydantic-ai"
    )

    class Last(SpanProcessor):
        def on_end(self, span):
            seen.append((span.name, span._attributes["llm.model_name"]))

    # It writes its attributes into the SDK's private field: a processor after it has to look there.
    seen = []
    provider.add_span_processor(kind.OpenInferenceSpanProcessor())
    provider.add_span_processor(Last())
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 3}
    with tracekit.span("native", attributes=attributes):
        trace.get_tracer("library").start_span("otel", attributes=attributes).end()
    assert seen == [("otel", "m"), ("native", "m")]
    assert [span.attributes["llm.model_name"] for span in exporter.spans] == ["m", "m"]
    assert [span.attributes["gen_ai.request.model"] for span in exporter.spans] == ["m", "m"]
    assert {span.status.code for span in exporter.spans} == {"ok"}
    assert caplog.records == []


def test_openinferences_tracer_makes_tracekits_spans(exporter, provider):
    kind = pytest.importorskip("openinference.instrumentation", reason="pip install openinference-instrumentation")
    tracer = kind.OITracer(trace.get_tracer("library"), config=kind.TraceConfig(hide_inputs=True))
    with (
        tracekit.span("native"),
        kind.using_session("session"),
        tracer.start_as_current_span("otel", openinference_span_kind="llm") as span,
    ):
        span.set_attribute("input.value", "secret")
    otel, native = exporter.spans
    assert otel.parent == native.context
    assert otel.attributes["openinference.span.kind"] == "LLM"
    assert otel.attributes["session.id"] == "session"
    assert "secret" not in str(dict(otel.attributes))


class Faulty(SpanProcessor):
    """Raises wherever it is called."""

    def on_start(self, span, parent_context=None):
        raise ValueError("start")

    def _on_ending(self, span):
        raise ValueError("ending")

    def on_end(self, span):
        raise ValueError("end")

    def shutdown(self):
        raise ValueError("shutdown")

    def force_flush(self, timeout_millis=30000):
        raise ValueError("flush")


def test_a_faulty_processor_disturbs_neither_the_program_nor_the_others(exporter, provider, memory, caplog):
    provider.add_span_processor(Faulty())
    provider.add_span_processor(SimpleSpanProcessor(memory))
    for _ in range(2):
        _shop()
    assert not provider.force_flush()
    assert len(memory.get_finished_spans()) == len(exporter.spans) == 6
    provider.shutdown()
    failed = [record.getMessage().partition(" ")[0] for record in caplog.records]
    assert sorted(failed) == [
        f"Faulty.{method}" for method in ("_on_ending", "force_flush", "on_end", "on_start", "shutdown")
    ]


def test_an_exporter_that_hangs_does_not_hold_up_the_program(exporter, provider):
    class Hanging(InMemorySpanExporter):
        def export(self, spans):
            is_called.set()
            go_on.wait(20)
            return super().export(spans)

    is_called, go_on = threading.Event(), threading.Event()
    memory = Hanging()
    processor = BatchSpanProcessor(memory, max_export_batch_size=1, max_queue_size=4)
    provider.add_span_processor(processor)
    _shop()
    assert is_called.wait(20)
    for _ in range(50):  # more than its queue takes
        _shop()
    assert len(exporter.spans) == 153  # all, while the other one hangs
    go_on.set()
    processor.shutdown()
