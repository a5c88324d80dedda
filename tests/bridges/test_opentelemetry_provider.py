"""Providers that a program makes, as OpenTelemetry's own test suites use them."""

from __future__ import annotations

import logging
from unittest import mock

import pytest
from opentelemetry import trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import tracekit
from tracekit._core import misuse
from tracekit.bridges import opentelemetry as bridge


@pytest.fixture
def memory():
    return InMemorySpanExporter()


def _provider(memory, **arguments):
    made = bridge.TracerProvider(shutdown_on_exit=False, **arguments)
    made.add_span_processor(SimpleSpanProcessor(memory))
    return made


def test_spans_have_the_very_resource_of_their_provider(provider, memory):
    resources = [Resource({"service.name": name}) for name in "ab"]
    for resource in resources:
        _provider(memory, resource=resource).get_tracer("library").start_span("span").end()
    assert [span.resource for span in memory.get_finished_spans()] == resources
    assert all(span.resource is resource for span, resource in zip(memory.get_finished_spans(), resources, strict=True))


def test_a_resource_without_attributes_is_empty(provider, memory):
    tracer = _provider(memory, resource=mock.Mock()).get_tracer("library")
    tracer.start_span("span").end()
    assert tracer.start_span("another").tracekit_span.resource == {}


def test_a_tracer_is_an_instance_of_the_sdks(tracer):
    assert isinstance(tracer, sdk.Tracer)
    assert isinstance(tracer, bridge.OtelTracer)
    assert tracer._instrumentation_scope.name == "library"
    assert tracer._instrumentation_scope is tracer.instrumentation_scope


def test_limits_of_the_sdk(provider, memory):
    limits = sdk.SpanLimits(max_attributes=2, max_events=0, max_links=1, max_attribute_length=3)
    link = trace.Link(trace.SpanContext(5, 6, is_remote=True))
    span = (
        _provider(memory, span_limits=limits)
        .get_tracer("library")
        .start_span("span", attributes={"a": "12345", "b": 1, "c": 2}, links=[link, link])
    )
    span.add_event("event")
    span.end()
    assert dict(span.attributes) == {"a": "123", "b": 1}
    assert (len(span.links), len(span.events)) == (1, 0)
    assert (span.dropped_links, span.dropped_events) == (1, 1)


def test_counts_without_a_limit_exceed_the_usual_one(provider, memory):
    limits = sdk.SpanLimits(max_events=sdk.SpanLimits.UNSET)
    span = _provider(memory, span_limits=limits).get_tracer("library").start_span("span")
    for _ in range(tracekit.Limits().events + 1):
        span.add_event("event")
    assert len(span.events) == tracekit.Limits().events + 1
    span.end()


def test_the_sampler_of_a_provider_without_one(exporter, provider):
    assert provider.sampler is sampling.DEFAULT_ON
    tracekit.configure(exporter=exporter, sampler=tracekit.Ratio(0.25), environ={})
    assert isinstance(provider.sampler, sampling.ParentBased)
    assert provider.sampler._root.rate == 0.25


def test_a_processor_that_is_added_during_a_span_is_told_its_end(provider, memory):
    made = bridge.TracerProvider(shutdown_on_exit=False)
    with made.get_tracer("library").start_as_current_span("span"):
        made.add_span_processor(SimpleSpanProcessor(memory))
    assert [span.name for span in memory.get_finished_spans()] == ["span"]


def test_the_processors_are_where_libraries_look_for_them(provider):
    processor = sdk.SpanProcessor()
    provider.add_span_processor(processor)
    assert provider._active_span_processor._span_processors == (processor,)
    several = sdk.SynchronousMultiSpanProcessor()
    assert bridge.TracerProvider(active_span_processor=several)._active_span_processor is several


def test_a_disabled_sdk_records_nothing_for_processors(exporter, memory, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracekit.configure(exporter=exporter)
    provider = bridge.install()
    try:
        provider.add_span_processor(SimpleSpanProcessor(memory))
        with tracekit.span("native"), provider.get_tracer("library").start_as_current_span("span") as span:
            assert not span.is_recording()
    finally:
        bridge.uninstall()
    assert memory.get_finished_spans() == ()
    assert exporter.spans == []


def test_a_link_without_ids_is_kept_for_its_state(tracer):
    face = trace.SpanContext(0, 0, is_remote=False, trace_state=trace.TraceState([("foo", "bar")]))
    as_text = trace.SpanContext(0, 0, is_remote=False, trace_state="foo=bar")
    span = tracer.start_span(
        "span", links=[trace.Link(face), trace.Link(as_text), trace.Link(trace.INVALID_SPAN_CONTEXT)]
    )
    assert [link.context.trace_state.to_header() for link in span.links] == ["foo=bar"] * 2
    span.end()


def test_the_deprecated_form_of_the_scope(tracer):
    span = tracer.start_span("span")
    with pytest.warns(DeprecationWarning, match="InstrumentationScope"):
        assert span.instrumentation_info.name == "library"
    span.end()


@pytest.fixture
def _lenient():
    before = misuse.set_strict(False)
    yield
    misuse.set_strict(before)


@pytest.mark.usefixtures("_lenient")
def test_a_description_beside_a_status_is_reported(tracer):
    span = tracer.start_span("span")
    before = tracekit.statistics().misused
    span.set_status(trace.Status(trace.StatusCode.ERROR, "kept"), description="left out")
    assert tracekit.statistics().misused == before + 1
    assert span.status.description == "kept"
    span.end()


def test_spans_for_processors_alone_are_not_reported_as_lost(memory, caplog):
    tracekit.configure(environ={})
    provider = bridge.install()
    try:
        provider.add_span_processor(SimpleSpanProcessor(memory))
        with caplog.at_level(logging.WARNING), trace.get_tracer("library").start_as_current_span("span"):
            pass
        tracekit.shutdown()
    finally:
        bridge.uninstall()
    assert [span.name for span in memory.get_finished_spans()] == ["span"]
    assert caplog.records == []
