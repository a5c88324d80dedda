"""Span processors and exporters of OpenTelemetry's SDK on tracekit's spans."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

import tracekit
from tracekit.bridges import opentelemetry as bridge


@pytest.fixture
def memory(provider):
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


def _names(memory):
    return [span.name for span in memory.get_finished_spans()]


def test_an_exporter_of_the_sdk_gets_the_spans_of_both_apis(exporter, memory, tracer):
    with tracekit.span("native", kind="client", attributes={"a": 1}) as native, tracer.start_as_current_span("otel"):
        pass
    assert _names(memory) == [span.name for span in exporter.spans] == ["otel", "native"]
    otel, made = memory.get_finished_spans()
    assert isinstance(made, ReadableSpan)
    assert (made.kind, dict(made.attributes)) == (SpanKind.CLIENT, {"a": 1})
    assert (made.start_time, made.end_time) == (native.start_ns, native.end_ns)
    assert otel.parent == made.context
    assert made.instrumentation_scope.name == "tracekit"
    assert (otel.instrumentation_scope.name, otel.instrumentation_scope.version) == ("library", "1.2")
    assert isinstance(made.resource, Resource)
    assert made.resource.attributes["service.name"] == "test"


def test_processors_stay_when_tracekit_is_configured_again(exporter, memory):
    tracekit.configure(service="again", environ={})
    with tracekit.span("native"):
        pass
    assert _names(memory) == ["native"]
    bridge.uninstall()
    with tracekit.span("after"):
        pass
    assert _names(memory) == ["native"]


def test_an_abandoned_span_reaches_the_processors(memory):
    tracekit.span("abandoned")
    import gc

    gc.collect()
    (made,) = memory.get_finished_spans()
    assert made.status.status_code is StatusCode.UNSET
    assert made.attributes["tracekit.cancelled"].startswith("abandoned")


LEFT_OPEN = """
import tracekit
from opentelemetry import trace
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tracekit.bridges import opentelemetry as bridge

tracekit.configure(environ={})
bridge.install().add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
tracer = trace.get_tracer("library")
spans = [tracekit.span("native"), tracer.start_span("otel")]
current = tracer.start_as_current_span("current")
current.__enter__()
"""


def test_no_processor_is_called_when_the_interpreter_goes_down():
    """Modules may be empty by then: the processor failed, and the failure could not be logged."""
    done = subprocess.run([sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_batch_processor_exports_at_a_flush(exporter, provider):
    memory = InMemorySpanExporter()
    provider.add_span_processor(BatchSpanProcessor(memory))
    with tracekit.span("native"):
        pass
    assert provider.force_flush()
    assert _names(memory) == ["native"]
    provider.shutdown()


def test_the_console_exporter_prints_a_span(provider, tracer):
    out = io.StringIO()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=out)))
    with tracer.start_as_current_span("otel", links=[trace.Link(trace.SpanContext(1, 2, is_remote=True))]) as span:
        span.add_event("event", {"a": 1})
        span.set_status(StatusCode.ERROR, "broken")
    printed = json.loads(out.getvalue())
    assert printed["name"] == "otel"
    assert printed["status"] == {"status_code": "ERROR", "description": "broken"}
    assert printed["events"][0]["name"] == "event"
    assert printed["links"][0]["context"]["span_id"] == "0x0000000000000002"


class Recorder(SpanProcessor):
    def __init__(self):
        self.calls = []

    def on_start(self, span, parent_context=None):
        span.set_attribute("started", True)
        self.calls.append(("start", span.name, parent_context))

    def _on_ending(self, span):
        span.set_attribute("ending", True)

    def on_end(self, span):
        self.calls.append(("end", span.name, dict(span.attributes)))


def test_a_processor_may_change_a_span_at_its_start_and_before_its_end(provider, tracer):
    recorder = Recorder()
    provider.add_span_processor(recorder)
    given = context.set_value("key", "value")
    with tracer.start_as_current_span("otel", context=given) as span:
        assert span.attributes == {"started": True}
    attributes = {"started": True, "ending": True}
    assert recorder.calls == [("start", "otel", given), ("end", "otel", attributes)]


class Broken(SpanProcessor):
    def on_start(self, span, parent_context=None):
        raise ValueError("broken")

    _on_ending = on_end = force_flush = shutdown = on_start


def test_the_exceptions_of_a_processor_are_logged_once_and_never_raised(exporter, provider, tracer, memory, caplog):
    provider.add_span_processor(Broken())
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with tracekit.span("native"), tracer.start_as_current_span("otel"):
                pass
        assert provider.force_flush() is False
        provider.shutdown()
    assert len(exporter.spans) == len(memory.get_finished_spans()) == 6
    assert len([record for record in caplog.records if "Broken" in record.message]) == 5


def test_unsampled_spans_reach_no_processor(exporter, memory):
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff(), environ={})
    with tracekit.span("native"):
        pass
    assert _names(memory) == []


def test_a_provider_of_the_programs_own_has_its_sampler_resource_and_processors(exporter, memory):
    own = InMemorySpanExporter()
    provider = bridge.TracerProvider(resource=Resource({"service.name": "own"}))
    provider.add_span_processor(SimpleSpanProcessor(own))
    with tracekit.span("native"), provider.get_tracer("x").start_as_current_span("own"):
        pass
    assert _names(own) == ["own"]
    assert own.get_finished_spans()[0].resource.attributes == {"service.name": "own"}
    assert _names(memory) == ["native"]
    provider.shutdown()
    off = bridge.TracerProvider(sampler=ALWAYS_OFF)
    assert not off.get_tracer("x").start_span("root").is_recording()
    ratio = bridge.TracerProvider(sampler=TraceIdRatioBased(1.0))
    span = ratio.get_tracer("x").start_span("root")
    assert span.is_recording()
    span.end()


def test_arguments_that_are_ignored_are_named(caplog):
    bridge.TracerProvider(meter_provider=object(), an_argument_of_later=1, one_without_a_value=None)
    assert "TracerProvider ignores an_argument_of_later" in caplog.text
    assert "meter_provider" not in caplog.text
    assert "one_without_a_value" not in caplog.text


def test_processors_hear_spans_of_many_threads(provider, memory, tracer):
    def work():
        for _ in range(50):
            with tracer.start_as_current_span("a"), tracekit.span("b"):
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(memory.get_finished_spans()) == 400


def test_threads_that_add_processors_at_once_lose_none():
    provider = bridge.TracerProvider(shutdown_on_exit=False)
    added = [[SpanProcessor() for _ in range(300)] for _ in range(4)]
    start = threading.Barrier(4)

    def add(processors):
        start.wait()
        for processor in processors:
            provider.add_span_processor(processor)

    threads = [threading.Thread(target=add, args=(processors,)) for processors in added]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {*provider._active_span_processor._span_processors} == {
        processor for processors in added for processor in processors
    }


def test_a_signal_handler_adds_a_processor_while_another_one_is_being_added():
    provider, processor = bridge.TracerProvider(shutdown_on_exit=False), SpanProcessor()
    processors = provider._active_span_processor
    with processors._lock:
        assert processors._lock.acquire(timeout=1)
        processors._lock.release()
        provider.add_span_processor(processor)
    assert processors._span_processors == (processor,)


def test_instrumentations_are_suppressed_while_tracekits_exporter_runs(provider):
    seen = []

    class Exporter:
        def export(self, spans):
            seen.append(context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY))
            token = context.attach(context.set_value("key", "value"))
            seen.append(context.get_value(context._SUPPRESS_HTTP_INSTRUMENTATION_KEY))
            context.detach(token)

        def shutdown(self):
            pass

    tracekit.configure(exporter=Exporter(), environ={})
    tracekit.span("a").end()
    assert tracekit.flush(60)
    assert seen == [True, True]
    assert context.get_value(context._SUPPRESS_INSTRUMENTATION_KEY) is None
