"""Providers that a program makes, as OpenTelemetry's own test suites use them."""

from __future__ import annotations

import logging
import os
import threading
from unittest import mock

import pytest
from opentelemetry import trace
from opentelemetry.context.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

import tracekit
from tracekit._core.otlp import encode_spans
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


def test_events_and_links_have_limits_of_their_own(provider, memory):
    limits = sdk.SpanLimits(
        max_span_attribute_length=5, max_attribute_length=2, max_event_attributes=1, max_link_attributes=0
    )
    given = {"a": "1234567", "b": 1}
    link = trace.Link(trace.SpanContext(5, 6, is_remote=True), given)
    span = _provider(memory, span_limits=limits).get_tracer("x").start_span("span", attributes=given, links=[link])
    span.add_event("event", given)
    span.end()
    assert dict(span.attributes) == {"a": "12345", "b": 1}
    assert [dict(part.attributes) for part in (*span.events, *span.links)] == [{"a": "12"}, {}]


def test_a_provider_reads_the_limits_in_the_environment(provider, memory, monkeypatch):
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "2")
    span = _provider(memory).get_tracer("x").start_span("span", attributes={"a": "123", "b": 1})
    assert dict(span.attributes) == {"a": "12"}
    span.end()
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
    span = _provider(memory).get_tracer("x").start_span("span", attributes={"a": "123", "b": 1})
    assert dict(span.attributes) == {"a": "123", "b": 1}
    span.end()


def test_the_deprecated_form_of_the_scope(tracer):
    span = tracer.start_span("span")
    with pytest.warns(DeprecationWarning, match="InstrumentationScope"):
        assert span.instrumentation_info.name == "library"
    span.end()


@pytest.mark.usefixtures("lenient")
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
        tracekit.shutdown(60)
    finally:
        bridge.uninstall()
    assert [span.name for span in memory.get_finished_spans()] == ["span"]
    assert caplog.records == []


def test_the_sampler_of_a_provider_is_asked_as_by_the_sdk(exporter, provider, memory):
    class Recording:
        def should_sample(self, parent, trace_id, name, kind=None, attributes=None, links=None, trace_state=None):
            calls.append((trace.get_current_span(parent).get_span_context(), trace_id, name, kind, attributes, links))
            state = trace.TraceState([("mine", "1")])
            return sampling.SamplingResult(sampling.Decision.RECORD_AND_SAMPLE, {"rule": "all"}, state)

    calls = []
    tracer = _provider(memory, sampler=Recording()).get_tracer("library")
    link = trace.Link(trace.SpanContext(5, 6, is_remote=True), {"why": "batch"})
    with tracer.start_as_current_span("root", kind=trace.SpanKind.CLIENT, attributes={"a": 1}, links=[link]) as root:
        tracer.start_span("child").end()
    ((parent, trace_id, name, kind, attributes, links),) = calls
    assert not parent.is_valid
    assert (trace_id, name, kind) == (root.get_span_context().trace_id, "root", trace.SpanKind.CLIENT)
    assert dict(attributes) == {"a": 1}
    assert [(each.context.span_id, dict(each.attributes)) for each in links] == [(6, {"why": "batch"})]
    child, made = memory.get_finished_spans()
    assert dict(made.attributes) == {"a": 1, "rule": "all"}
    assert child.context.trace_state.to_header() == made.context.trace_state.to_header() == "mine=1"


def test_the_ids_of_a_provider_are_those_of_the_process(exporter, memory):
    class Ids(RandomIdGenerator):
        def generate_trace_id(self):
            return 7

    def trace_ids():
        with (
            tracekit.span("native") as native,
            own.get_tracer("library").start_as_current_span("span", Context()) as span,
        ):
            return int(native.context.trace_id, 16), span.get_span_context().trace_id

    bridge.install()
    try:
        given = Ids()
        own = _provider(memory, id_generator=given)
        assert own.id_generator is given
        assert trace_ids() == (7, 7)
        tracekit.configure(exporter=exporter, environ={})
        assert trace_ids() == (7, 7)
        tracekit.configure(exporter=exporter, id_generator=RandomIdGenerator(), environ={})
        assert 7 not in trace_ids()
        tracekit.configure(exporter=exporter, environ={})
        assert trace_ids() == (7, 7)
    finally:
        bridge.uninstall()
    assert 7 not in trace_ids()


def test_a_proxy_of_a_tracer_calls_the_methods_of_its_class(tracer, exporter):
    class Proxy:  # as openinference's OITracer, a wrapt.ObjectProxy
        def __getattr__(self, name):
            return getattr(tracer, name)

        def start_span(self, *args, **kwargs):
            return tracer.__class__.start_span(self, *args, **kwargs)

    with tracer.__class__.start_as_current_span(Proxy(), "outer", kind=trace.SpanKind.SERVER):
        Proxy().start_span("inner").end()
    inner, outer = exporter.spans
    assert (inner.parent, outer.kind) == (outer.context, "server")


def test_a_processor_may_write_private_fields_before_the_exporter_gets_the_span(exporter, provider, memory):
    class Writer(sdk.SpanProcessor):
        def on_end(self, span):
            span._attributes = {**span.attributes, "added": 1}
            span._status = trace.Status(trace.StatusCode.ERROR, "why")
            span._name = f"{span.name}!"

    provider.add_span_processor(Writer())
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with tracekit.span("native", attributes={"a": "b"}):
        pass
    with pytest.raises(GeneratorExit), tracekit.span("cancelled"):
        raise GeneratorExit
    unsampled = trace.get_tracer("x").start_span("unsampled", bridge_context(sampled=False))
    unsampled._attributes = {"a": 1}
    for spans in exporter.spans, memory.get_finished_spans():
        assert [(span.name, dict(span.attributes)) for span in spans] == [
            ("native!", {"a": "b", "added": 1}),
            ("cancelled!", {"added": 1}),
        ]
    assert {tuple(span.status) for span in exporter.spans} == {("error", "why")}
    assert dict(unsampled.attributes) == {}


REMOTE = trace.SpanContext(1, 2, True, trace.TraceFlags(1))


def _append(span):
    span._kind = trace.SpanKind.CLIENT  # as Azure's plugin does for each request
    span._links.append(trace.Link(REMOTE, {"a": 1}))
    span._events.append(sdk.Event("more", {"b": 2}, 5))


def _extend(span):
    span._kind = trace.SpanKind.CLIENT
    span._links.extend([trace.Link(REMOTE, {"a": 1})])
    span._events.extend(iter([sdk.Event("more", {"b": 2}, 5)]))


def _redact(span):
    span._kind = trace.SpanKind.CLIENT
    span._links = [trace.Link(REMOTE, {"a": 1})]
    span._events = [sdk.Event("more", {"b": 2}, 5)]


@pytest.mark.parametrize("method", ["on_start", "_on_ending", "on_end"])
def test_attributes_may_be_written_in_place(exporter, provider, memory, method):
    def change(_, span, *args, **kwargs):
        span._attributes["added"] = 1
        span._attributes.update(masked="***")
        del span._attributes["removed"]
        assert span._attributes.pop("absent", None) is None
        seen.append((dict(span._attributes), repr(span._attributes), len(span._attributes)))

    seen = []
    provider.add_span_processor(type("Writer", (sdk.SpanProcessor,), {method: change})())
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.get_tracer("library").start_span("span", attributes={"masked": "secret", "removed": 2}).end()
    expected = {"masked": "***", "added": 1}
    assert seen == [(expected, repr(expected), 2)]
    for spans in exporter.spans, memory.get_finished_spans():
        assert [dict(span.attributes) for span in spans] == [expected]


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("change", [_append, _extend, _redact])
def test_kind_events_and_links_may_be_written_by_their_private_names(exporter, provider, memory, change, at_end):
    if at_end:
        provider.add_span_processor(type("Writer", (sdk.SpanProcessor,), {"on_end": lambda _, span: change(span)})())
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with trace.get_tracer("library").start_as_current_span("span") as span:
        if change is _redact:
            span.add_event("secret")
        if not at_end:
            change(span)
    (exported,), (made,) = memory.get_finished_spans(), exporter.spans
    assert (exported.kind, made.kind) == (trace.SpanKind.CLIENT, "client")
    assert [(event.name, dict(event.attributes), event.timestamp) for event in exported.events] == [
        ("more", {"b": 2}, 5)
    ]
    assert [(link.context, dict(link.attributes)) for link in exported.links] == [(REMOTE, {"a": 1})]
    assert ([event.name for event in made.events], len(made.links)) == (["more"], 1)


@pytest.mark.parametrize("value", [None, [object()], [trace.Link(None)]])
@pytest.mark.parametrize("name", ["_events", "_links"])
@pytest.mark.usefixtures("lenient")
def test_events_and_links_of_another_kind_are_left_out(exporter, tracer, name, value):
    with tracer.start_as_current_span("span") as span:
        setattr(span, name, value)
        getattr(span, name).append(object())
    (made,) = exporter.spans
    assert (made.events, made.links) == ((), ())
    assert encode_spans([made])


@pytest.mark.parametrize("name", ["context", "end_time", "instrumentation_scope", "parent", "resource", "start_time"])
@pytest.mark.usefixtures("lenient")
def test_other_private_fields_of_spans_do_not_change(tracer, name):
    with tracer.start_as_current_span("span") as span:
        before, reported = getattr(span, name), tracekit.statistics().misused
        setattr(span, f"_{name}", None)
        assert getattr(span, f"_{name}") == before
        assert tracekit.statistics().misused == reported + 1


def test_limits_are_read_by_their_private_names(provider):
    made = bridge.TracerProvider(
        shutdown_on_exit=False, span_limits=sdk.SpanLimits(max_span_attributes=7, max_events=8, max_links=9)
    )
    found = made.get_tracer("library").start_span("span")._limits
    assert (found.max_span_attributes, found.max_events, found.max_links) == (7, 8, 9)
    assert made._span_limits.max_span_attributes == 7
    assert isinstance(bridge.TracerProvider()._span_limits, sdk.SpanLimits)


def test_fields_of_a_provider_may_be_written(exporter, provider, memory, caplog):
    made, ids = (
        bridge.TracerProvider(resource=Resource({"one": "one"}), shutdown_on_exit=False),
        mock.Mock(wraps=RandomIdGenerator()),
    )
    made.sampler, made.id_generator = sampling.ALWAYS_OFF, ids
    made._resource = made._resource.merge(Resource({"two": "two"}))
    others = InMemorySpanExporter()
    made.add_span_processor(SimpleSpanProcessor(others))
    made._active_span_processor = SimpleSpanProcessor(memory)  # in place of the others
    tracer = made.get_tracer("library")
    tracer.start_span("left out").end()
    made.sampler = sampling.ALWAYS_ON
    tracer.start_span("span").end()
    (span,) = memory.get_finished_spans()
    assert (span.name, dict(span.resource.attributes)) == ("span", {"one": "one", "two": "two"})
    assert others.get_finished_spans() == ()
    assert ids.generate_span_id.called
    assert caplog.messages == []


def test_fields_that_are_those_of_configure_are_reported(provider, caplog):
    provider.sampler = sampling.ALWAYS_OFF
    provider._resource = Resource({"service.name": "other"})
    assert trace.get_tracer("library").start_span("span").resource.attributes.get("service.name") != "other"
    assert caplog.messages == [
        f"the {name} of the installed TracerProvider is that of tracekit.configure()"
        for name in ("sampler", "resource")
    ]


def test_processors_are_taken_out_as_of_the_sdks_list(exporter, provider, memory):
    made, others = bridge.TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    made.add_span_processor(SimpleSpanProcessor(others))
    with made._active_span_processor._lock:  # as phoenix.otel does
        made._active_span_processor._span_processors = ()
    made._active_span_processor.add_span_processor(SimpleSpanProcessor(memory))
    made.get_tracer("library").start_span("span").end()
    assert (len(memory.get_finished_spans()), others.get_finished_spans()) == (1, ())


def bridge_context(*, sampled):
    parent = trace.SpanContext(5, 6, is_remote=True, trace_flags=trace.TraceFlags(int(sampled)))
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context())


def test_spans_that_processors_alone_get_count_as_exported(memory):
    tracekit.configure(environ={})
    provider = bridge.install()
    try:
        before = tracekit.statistics()
        trace.get_tracer("library").start_span("nothing gets it").end()
        provider.add_span_processor(SimpleSpanProcessor(memory))
        for name in "ab":
            trace.get_tracer("library").start_span(name).end()
        after = tracekit.statistics()
    finally:
        bridge.uninstall()
    assert len(memory.get_finished_spans()) == 2
    counts = after.exported, after.unsampled, after.dropped, after.queued, after.ended
    assert [
        now - then
        for now, then in zip(
            counts, (before.exported, before.unsampled, before.dropped, before.queued, before.ended), strict=True
        )
    ] == [2, 1, 0, 0, 3]


def test_the_stacks_of_a_group_share_one_bound(exporter, tracer):
    def fail(depth):
        if depth:
            fail(depth - 1)
        raise ValueError("x" * 4000)

    errors = []
    for _ in range(20):
        try:
            fail(100)
        except ValueError as error:
            errors.append(error)
    sizes = []
    for start in tracekit.span, tracer.start_as_current_span:
        with pytest.raises(ExceptionGroup), start("span"):
            raise ExceptionGroup("many", errors)
        events = exporter.spans[-1].events
        sizes.append([len(event.attributes["exception.stacktrace"]) for event in events])
    assert sizes[0] == sizes[1]
    assert sizes[0][0] > sizes[0][-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("is_given", [True, False])
def test_the_resource_of_a_provider_names_the_child_of_a_fork(is_given, exporter, provider):
    if is_given:
        made = bridge.TracerProvider(resource=Resource.create({"service.name": "shop", "process.pid": os.getpid()}))
    else:
        tracekit.configure(exporter=exporter, environ={})
        made = bridge.TracerProvider()
        made._update_resource(Resource({"service.name": "shop"}))
    tracer = made.get_tracer("x")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        resource = tracer.start_span("in the child").resource.attributes
        names = "service.name", "service.instance.id", "process.pid"
        os.write(write, " ".join([str(resource[name]) for name in names]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    name, instance, pid = os.read(read, 100).decode().split()
    assert (name, pid) == ("shop", str(child))
    assert instance != tracer.start_span("in the parent").resource.attributes["service.instance.id"]
    os.close(read)
    os.close(write)


def test_update_resource_holds_for_the_spans_from_then_on(exporter, provider):
    made = bridge.TracerProvider(resource=Resource({"one": "one", "two": "old"}))
    tracer = made.get_tracer("x")
    before = tracer.start_span("before")
    made._update_resource(Resource({"two": "new"}))
    after = tracer.start_span("after")
    assert tracer.resource is made.resource
    assert after.resource is made.resource
    assert dict(before.resource.attributes) == {"one": "one", "two": "old"}
    before.end()
    after.end()
    assert [dict(span.resource) for span in exporter.spans] == [
        {"one": "one", "two": "old"},
        {"one": "one", "two": "new"},
    ]


def test_the_programs_own_provider_takes_the_place_of_the_installed_one(exporter, memory, caplog):
    installed = bridge.install(replace_sdk=True)
    early = trace.get_tracer("early")
    own = sdk.TracerProvider(resource=Resource({"service.name": "own"}))
    own.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(installed)  # as it is
    trace.set_tracer_provider(own)
    assert trace.get_tracer_provider() is own
    with trace.get_tracer("library").start_as_current_span("own") as span, tracekit.span("native"):
        early.start_span("early").end()
    assert span.resource.attributes == {"service.name": "own"}
    names = ["early", "native", "own"]
    assert [span.name for span in memory.get_finished_spans()] == [span.name for span in exporter.spans] == names
    assert caplog.messages == []
    trace.set_tracer_provider(sdk.TracerProvider())
    assert trace.get_tracer_provider() is own
    assert caplog.messages == ["Overriding of current TracerProvider is not allowed"]
    bridge.uninstall()
    with tracekit.span("after"):
        pass
    assert len(memory.get_finished_spans()) == 3
    assert trace._TRACER_PROVIDER is None


def test_the_installed_provider_that_has_processors_may_be_set(provider, memory, caplog):
    provider.add_span_processor(SimpleSpanProcessor(memory))
    trace.set_tracer_provider(provider)
    assert trace.get_tracer_provider() is provider
    assert caplog.messages == []


def test_of_two_threads_that_set_a_provider_one_is_the_first(provider, memory, monkeypatch, caplog):
    others = InMemorySpanExporter()
    first, second = _provider(memory), _provider(others)
    hook = provider.hook_native_spans

    def meanwhile(hooks):
        monkeypatch.undo()
        thread = threading.Thread(target=trace.set_tracer_provider, args=(second,))
        thread.start()
        thread.join()
        hook(hooks)

    monkeypatch.setattr(provider, "hook_native_spans", meanwhile)
    trace.set_tracer_provider(first)
    assert trace.get_tracer_provider() is first
    assert "Overriding of current TracerProvider is not allowed" in caplog.messages
    with tracekit.span("native"):
        pass
    assert [span.name for span in memory.get_finished_spans()] == ["native"]
    assert others.get_finished_spans() == ()


def test_a_provider_of_the_sdk_does_not_take_the_place_of_the_installed_one(provider, caplog):
    trace.set_tracer_provider(sdk.TracerProvider())
    assert trace.get_tracer_provider() is provider
    assert caplog.messages == ["Overriding of current TracerProvider is not allowed"]
