"""What the bridge puts in place of functions of the API, and what it gives to objects that are extension types."""

from __future__ import annotations

import asyncio
import copy
import gc
import weakref
from contextlib import contextmanager
from types import GeneratorType
from unittest.mock import Mock, call, patch

import opentelemetry.sdk.trace as sdk
import pytest
from opentelemetry import context, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import tracekit
from tracekit.bridges import opentelemetry as bridge

EARLY_USE_SPAN, EARLY_CURRENT_SPAN = trace.use_span, trace.get_current_span


def test_objects_are_instances_of_the_classes_of_the_api(tracer):
    with tracer.start_as_current_span("a") as span:
        assert isinstance(span, trace.Span)
        assert isinstance(span, ReadableSpan)
        assert not isinstance(span, trace.NonRecordingSpan)
    assert isinstance(tracer, trace.Tracer)
    assert isinstance(propagate.get_global_textmap(), TextMapPropagator)


def test_no_method_of_the_api_is_missing(tracer):
    with tracer.start_as_current_span("a") as span:
        assert {name for name in dir(trace.Span) if name[:1] != "_"} <= set(dir(span))
    assert {name for name in dir(trace.Tracer) if name[:1] != "_"} <= set(dir(tracer))
    assert {name for name in dir(TextMapPropagator) if name[:1] != "_"} <= set(dir(bridge.Propagator))


def test_a_span_and_a_tracer_take_attributes_of_others(tracer):
    with tracer.start_as_current_span("a") as span:
        span.anything = span
        assert trace.get_current_span().anything is span
        assert copy.copy(span) is span
        assert copy.deepcopy(span) is span
    tracer.start_span = Mock()
    assert tracer.start_span("b") is tracer.start_span.return_value


def test_the_functions_of_the_api_are_put_back():
    bridge.install()
    assert trace.use_span is not EARLY_USE_SPAN
    bridge.uninstall()
    assert (trace.use_span, trace.get_current_span) == (EARLY_USE_SPAN, EARLY_CURRENT_SPAN)


@pytest.mark.parametrize("early", [False, True])
def test_use_span_of_before_and_after_install_does_the_same(exporter, tracer, early):
    use_span = EARLY_USE_SPAN if early else trace.use_span
    current = EARLY_CURRENT_SPAN if early else trace.get_current_span
    with tracekit.use_labels(tenant="a"), use_span(tracer.start_span("a"), end_on_exit=True) as span:
        assert current() is span
        assert tracekit.current_span() is span.tracekit_span
        assert tracekit.current_labels() == {"tenant": "a"}
        with tracekit.span("inside") as inside:
            assert current().tracekit_span is inside
        assert current() is span
    assert current() is trace.INVALID_SPAN
    assert [span.name for span in exporter.spans] == ["inside", "a"]


def test_use_span_keeps_the_keys_of_the_current_context(tracer):
    token = context.attach(context.set_value("key", "value"))
    with trace.use_span(tracer.start_span("a"), end_on_exit=True):
        assert context.get_value("key") == "value"
    context.detach(token)


def test_use_span_records_an_exception_and_leaves_the_span_open(exporter, tracer):
    span = tracer.start_span("a")
    with pytest.raises(ValueError, match="broken"), trace.use_span(span):
        raise ValueError("broken")
    assert span.is_recording()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    with (
        pytest.raises(ValueError, match="again"),
        trace.use_span(span, record_exception=False, set_status_on_exception=False),
    ):
        raise ValueError("again")
    assert len(span.events) == 1
    span.end()


def test_use_span_decorates_a_function(exporter, tracer):
    span = tracer.start_span("a")

    @trace.use_span(span)
    def work():
        return trace.get_current_span()

    assert work() is span
    assert work() is span
    span.end()


def test_use_span_takes_the_spans_of_others(provider):
    foreign = TracerProvider().get_tracer("other").start_span("foreign")
    with trace.use_span(foreign, end_on_exit=True) as span:
        assert span is foreign
        assert trace.get_current_span() is foreign
    assert not foreign.is_recording()
    mock = Mock()
    with trace.use_span(mock, end_on_exit=True) as span:
        assert span is mock
    mock.end.assert_called_once()


def test_one_context_manager_makes_a_span_each_time(exporter, tracer):
    current = tracer.start_as_current_span("a", attributes={"n": 1}, kind=trace.SpanKind.CLIENT)
    for _ in range(2):
        with current:
            pass
    assert [(span.name, span.kind, dict(span.attributes)) for span in exporter.spans] == [("a", "client", {"n": 1})] * 2
    current.__exit__(None, None, None)


def test_a_context_manager_that_is_entered_inside_itself_makes_a_span_each_time(exporter, tracer):
    current = tracer.start_as_current_span("a")
    with current as outer:
        with current as inner:
            assert trace.get_current_span() is inner
        assert trace.get_current_span() is outer
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert [span.parent for span in exporter.spans] == [outer.tracekit_span.context, None]


class Request:
    """Holds itself, as requests do whose handlers refer to them."""

    def __init__(self, current):
        self.itself = self
        self.current = current


@pytest.mark.parametrize("entered", [1, 2])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("hold", [lambda current: None, Request])
def test_a_context_manager_that_is_dropped_makes_nothing_current_any_longer(exporter, tracer, hold, ends, entered):
    """As on the SDK: instrumentations keep it with a request, and not every request has an end."""

    def begin():
        current = tracer.start_as_current_span("a", end_on_exit=ends)
        kept = hold(current)
        spans = [current.__enter__() for _ in range(entered)]
        del kept
        return spans

    with tracer.start_as_current_span("around") as around:
        spans = begin()
        gc.collect()
        assert trace.get_current_span() is around
        assert [span.is_recording() for span in spans] == [not ends] * entered


def test_span_limits_of_the_sdk_are_those_of_the_spans(exporter, provider):
    limits = SpanLimits(max_span_attributes=2, max_events=1, max_links=0, max_span_attribute_length=3)
    tracer = bridge.TracerProvider(span_limits=limits).get_tracer("limited")
    with tracer.start_as_current_span("a", attributes={"a": "12345", "b": 2, "c": 3}) as span:
        span.add_event("kept")
        span.add_event("dropped")
        span.add_link(trace.SpanContext(1, 2, is_remote=True))
    (made,) = exporter.spans
    assert dict(made.attributes) == {"a": "123", "b": 2}
    assert (made.dropped_attributes, made.dropped_events, made.dropped_links) == (1, 1, 1)


def test_each_event_and_link_counts_its_dropped_attributes(exporter, provider):
    limits = SpanLimits(max_event_attributes=1, max_link_attributes=1)
    given = {"a": 1, "b": 2, "c": 3}
    with bridge.TracerProvider(span_limits=limits).get_tracer("x").start_as_current_span("a") as span:
        span.add_event("none")
        span.add_event("two", given)
        span.add_link(trace.SpanContext(1, 2, is_remote=True), given)
        span.set_attribute("bad", None)
    assert [event.dropped_attributes for event in span.events] == [0, 2]
    assert [link.dropped_attributes for link in span.links] == [2]
    assert [dict(part.attributes) for part in (*span.events, *span.links)] == [{}, {"a": 1}, {"a": 1}]
    assert span.dropped_attributes == 1
    assert exporter.spans[0].dropped_attributes == 5, "tracekit's span counts them all"


@pytest.mark.parametrize("limits", [Mock(), object(), SpanLimits(max_events=None)])
def test_span_limits_that_say_nothing_leave_tracekits_own(exporter, provider, limits):
    with bridge.TracerProvider(span_limits=limits).get_tracer("x").start_as_current_span("a") as span:
        span.add_event("kept")
    assert len(exporter.spans[0].events) == 1


class NoItems(dict):
    def items(self):
        raise ValueError


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": 7},
        {"name": "a", "context": "no context"},
        {"name": "a", "context": {trace.propagation._SPAN_KEY: Mock()}},
        {"name": "a", "kind": "client"},
        {"name": "a", "attributes": [("a", 1)]},
        {"name": "a", "attributes": {1: 2, "": 3, "b": object()}},
        {"name": "a", "attributes": NoItems(a=1)},
        {"name": "a", "links": 7},
        {"name": "a", "links": [None, Mock(), object()]},
        {"name": "a", "start_time": "soon"},
    ],
)
def test_bad_arguments_cost_themselves_only(exporter, tracer, arguments):
    with tracer.start_as_current_span(**arguments) as span:
        assert trace.get_current_span() is span
    tracer.start_span(**arguments).end()
    assert [span.name for span in exporter.spans] == [str(arguments["name"])] * 2


def test_a_span_that_a_generator_forgot_is_closed_with_the_one_around_it(tracer):
    """The SDK does the same to every span inside; the plain implementation does not know which generator opened it."""
    kept = []

    def steps():
        kept.append(tracer.start_as_current_span("forgotten"))
        kept[-1].__enter__()
        yield

    with tracer.start_as_current_span("request") as request:
        with tracer.start_as_current_span("steps"):
            generator = steps()
            assert list(generator) == [None]
            forgotten = trace.get_current_span()
            assert forgotten is not request
        is_kept = tracekit.IMPLEMENTATION != "compiled"
        assert trace.get_current_span() is (forgotten if is_kept else request)
        assert forgotten.is_recording(), "its scope is closed, not the span"
        kept.pop().__exit__(None, None, None)
        assert trace.get_current_span() is request
        assert not forgotten.is_recording()


def test_a_span_that_an_async_generator_forgot_is_closed_with_the_one_around_it(tracer):
    kept = []

    async def steps():
        kept.append(trace.use_span(tracer.start_span("forgotten")))
        kept[-1].__enter__()
        yield

    async def work():
        with tracer.start_as_current_span("request") as request:
            with tracer.start_as_current_span("steps"):
                async for _ in steps():
                    pass
                forgotten = trace.get_current_span()
            assert trace.get_current_span() is (forgotten if tracekit.IMPLEMENTATION != "compiled" else request)

    asyncio.run(work())


def test_a_span_of_a_generator_that_goes_on_stays_when_the_one_around_it_is_closed(tracer):
    @contextmanager
    def resource(name):
        with tracer.start_as_current_span(name) as span:
            yield span

    first, second = resource("first"), resource("second")
    first.__enter__()
    inner = second.__enter__()
    middle = tracer.start_as_current_span("middle")  # between them in a copy of the scope above
    middle.__enter__()
    first.__exit__(None, None, None)
    middle.__exit__(None, None, None)
    assert trace.get_current_span() is inner
    second.__exit__(None, None, None)
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_a_span_that_a_generator_forgot_is_known_by_its_copy(tracer):
    kept = []

    def steps():
        kept.append(tracer.start_as_current_span("forgotten"))
        kept[-1].__enter__()
        yield

    with tracer.start_as_current_span("outer") as outer:
        middle = tracer.start_as_current_span("middle")
        middle.__enter__()
        innermost = tracer.start_as_current_span("innermost")
        innermost.__enter__()
        generator = steps()
        next(generator)
        middle.__exit__(None, None, None)
        forgotten = trace.get_current_span()
        assert list(generator) == []
        assert trace.get_current_span() is forgotten
        innermost.__exit__(None, None, None)
        assert trace.get_current_span() is (forgotten if tracekit.IMPLEMENTATION != "compiled" else outer)


def test_a_function_that_a_generator_calls_may_leave_a_span_open(tracer):
    kept = []

    def connect():
        kept.append(tracer.start_as_current_span("connection"))
        kept[-1].__enter__()

    def steps():
        connect()
        yield

    with tracer.start_as_current_span("request"):
        list(steps())
        connection = trace.get_current_span()
    assert trace.get_current_span() is connection
    connection.end()


@pytest.mark.parametrize("handled", [True, False])
def test_a_span_that_a_generator_opens_while_it_is_deallocated_does_not_refer_to_it(tracer, handled):
    """CPython clears the references to a generator before its body runs a last time: a later one would be to freed memory."""
    counts, kept = [], []

    def references():
        (generator,) = [
            one for one in gc.get_objects() if type(one) is GeneratorType and one.gi_code is leave_open.__code__
        ]
        return weakref.getweakrefcount(generator)

    def leave_open():
        try:
            yield
        except GeneratorExit:
            if handled:
                kept.append(tracer.start_as_current_span("forgotten"))
                kept[-1].__enter__()
        if not handled:
            kept.append(tracer.start_as_current_span("forgotten"))
            kept[-1].__enter__()
        counts.append(references())

    with tracer.start_as_current_span("request"):
        for _ in leave_open():
            break
        trace.get_current_span().end()
    assert counts == [0]


def test_a_method_that_is_replaced_in_the_sdks_class_is_called(exporter, monkeypatch):
    tracer = bridge.install(replace_sdk=True).get_tracer("a")
    ended, set_before = [], sdk.Span.set_attribute

    def end(self, end_time=None):
        ended.append(self.name)

    def redact(self, key, value):
        set_before(self, key, "***" if key == "card" else value)

    with monkeypatch.context() as patched:
        patched.setattr(sdk.Span, "end", end)
        patched.setattr(sdk.Span, "set_attribute", redact)
        with tracer.start_as_current_span("with") as span:
            span.set_attribute("card", 4111)
            assert trace.get_current_span() is span
            assert isinstance(span, sdk.Span)
            with trace.use_span(tracer.start_span("used"), end_on_exit=True) as used:
                assert used.parent is span.get_span_context()
        with tracer.start_span("itself") as itself:
            assert context.detach(context.attach(trace.set_span_in_context(span))) is None
    assert ended == ["used", "with", "itself"]
    assert span.is_recording()
    assert itself.is_recording()
    assert span.attributes == {"card": "***"}
    with tracer.start_as_current_span("after") as after:
        assert type(after) is bridge.OtelSpan
        with trace.use_span(span):
            assert tracekit.current_span() is span.tracekit_span
    assert [span.name for span in exporter.spans] == ["after"]
    bridge.uninstall()


def test_a_method_that_is_replaced_records_the_exception_that_leaves_the_span(exporter, monkeypatch):
    tracer = bridge.install(replace_sdk=True).get_tracer("a")
    recorded = Mock()
    monkeypatch.setattr(sdk.Span, "record_exception", recorded)
    error = ValueError("a")
    with pytest.raises(ValueError, match="a"), tracer.start_as_current_span("with"), tracer.start_span("itself"):
        raise error
    assert recorded.call_args_list == [call(error, escaped=True), call(error)]
    assert [(span.name, *span.status) for span in exporter.spans] == [
        ("itself", "error", "ValueError: a"),
        ("with", "error", "ValueError: a"),
    ]
    bridge.uninstall()


def test_the_class_in_place_of_the_sdks_span_has_its_instances():
    earlier = sdk.Span
    bridge.install(replace_sdk=True)
    assert sdk.Span is not earlier
    sampled = bridge.TracerProvider().get_tracer("a").start_span("a")
    unsampled = bridge.TracerProvider(sampler=ALWAYS_OFF).get_tracer("a").start_span("a")
    assert isinstance(sampled, sdk.Span)
    assert isinstance(sampled, earlier)
    assert not isinstance(unsampled, sdk.Span)
    for other in Mock(), Mock(__class__=None), trace.INVALID_SPAN, 1:
        assert not isinstance(other, sdk.Span)
    with patch.object(sdk.Span, "end") as end:
        span = bridge.TracerProvider().get_tracer("a").start_span("a")
        assert isinstance(span, sdk.Span)
        assert not isinstance(bridge.TracerProvider(sampler=ALWAYS_OFF).get_tracer("a").start_span("a"), sdk.Span)
        span.end(5)
    assert end.call_args_list == [call(5)]
    assert type(bridge.TracerProvider().get_tracer("a").start_span("a")) is bridge.OtelSpan
    sampled.add_event("e", {"a": 1})
    assert '"a": 1' in sampled.to_json()  # the SDK's own code, which looks into the class by its name
    assert not hasattr(sdk.Span, "no_such_name")
    with pytest.raises(TypeError, match=r"Tracer.start_span"):
        type("Own", (sdk.Span,), {})()
    assert issubclass(sdk._Span, sdk.Span)
    bridge.uninstall()
    assert sdk.Span is earlier
