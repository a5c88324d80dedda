"""attach() and detach() on scopes: any order, any task, any thread; keys and baggage; cycles."""

from __future__ import annotations

import contextvars
import gc
import itertools
import logging
import os
import random
import threading
import weakref
from unittest.mock import Mock

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

import tracekit
from tracekit.bridges import opentelemetry as bridge
from tracekit.bridges._opentelemetry import contexts

EARLY_SET_BAGGAGE = baggage.set_baggage


@pytest.fixture(autouse=True)
def _installed(provider, caplog):
    """Nothing of these tests is logged: OpenTelemetry would log a failed detach."""
    with caplog.at_level(logging.WARNING):
        yield
    assert caplog.records == []


def test_get_current_is_the_context_that_was_attached():
    outside = context.get_current()
    made = context.set_value("key", "value")
    token = context.attach(made)
    assert context.get_current() is made
    assert context.get_value("key") == "value"
    context.detach(token)
    assert context.get_current() == outside


def test_the_view_of_a_scope_is_made_once(tracer):
    with tracekit.span("native"):
        assert context.get_current() is context.get_current()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_contexts_are_detached_in_any_order(order):
    outside = context.get_current()
    tokens = [context.attach(context.set_value(str(number), number)) for number in range(3)]
    for number in order:
        context.detach(tokens[number])
    assert context.get_current() == outside
    assert tracekit.current_context() is None
    for token in tokens:
        context.detach(token)
    assert context.get_current() == outside


def test_a_context_that_was_never_detached_goes_with_the_span_under_it(tracer):
    with tracer.start_as_current_span("request"):
        context.attach(context.set_value("key", "left"))
        context.attach(baggage.set_baggage("tenant", "left"))
        assert baggage.get_baggage("tenant") == "left"
    assert context.get_current() == {}
    assert tracekit.current_context() is None


def test_an_attached_span_that_is_open_stays_when_the_scope_under_it_is_closed(tracer):
    base = context.attach(context.set_value("key", "value"))
    span = tracer.start_span("open")
    token = context.attach(trace.set_span_in_context(span))
    context.detach(base)
    assert trace.get_current_span() is span
    context.detach(token)
    span.end()
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_an_attached_span_that_has_ended_goes_with_the_scope_under_it(tracer):
    base = context.attach(context.set_value("key", "value"))
    span = tracer.start_span("ended")
    context.attach(trace.set_span_in_context(span))
    span.end()
    context.detach(base)
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_a_token_is_detached_by_another_thread_and_by_another_context():
    outside = context.get_current()
    token = context.attach(context.set_value("key", "value"))
    thread = threading.Thread(target=context.detach, args=(token,))
    thread.start()
    thread.join()
    assert context.get_current() == outside
    token = context.attach(context.set_value("key", "value"))
    contextvars.copy_context().run(context.detach, token)
    assert context.get_current() == outside


@pytest.mark.parametrize("token", [None, object(), contextvars.ContextVar("other").set(1), "text"])
def test_tokens_of_others_are_ignored(token):
    before = context.get_current()
    context.detach(token)
    assert context.get_current() is before


def test_a_token_from_before_install_is_reset_by_the_runtime_that_made_it():
    bridge.uninstall()
    outside = context.get_current()
    token = context.attach(context.set_value("key", "before"))
    bridge.install()
    context.detach(token)
    bridge.uninstall()
    assert context.get_current() == outside
    bridge.install()


def test_a_token_is_used_as_one_of_contextvars():
    outside = context.get_current()
    token = context.attach(context.set_value("key", "value"))
    token.var.reset(token)  # as temporalio's interceptor does
    assert context.get_current() == outside
    with context.attach(context.set_value("key", "value")):  # as from Python 3.14 on
        assert context.get_value("key") == "value"
    assert context.get_current() == outside


@pytest.mark.parametrize("thing", [Mock(), {}, "text", 7])
def test_anything_can_be_attached(thing, tracer):
    token = context.attach(thing)
    assert context.get_current() is thing
    with tracekit.span("inside"):
        assert tracekit.current_span() is not None
    context.detach(token)
    assert context.get_current() == {}


class Foreign(trace.NonRecordingSpan):
    """A span of another implementation of the API."""


def test_a_foreign_span_is_the_parent_and_stays_the_same_object(exporter):
    remote = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    foreign = Foreign(remote)
    token = context.attach(trace.set_span_in_context(foreign))
    assert trace.get_current_span() is foreign
    with tracekit.use_labels(tenant="a"):
        assert trace.get_current_span() is foreign
        assert baggage.get_baggage("tenant") == "a"
        with tracekit.span("child") as child:
            assert trace.get_current_span() is not foreign
    context.detach(token)
    assert child.parent.span_id == f"{0xDEF:016x}"
    assert child.context.trace_id == f"{0xABC:032x}"


@pytest.mark.parametrize("span", [Mock(), Mock(spec=trace.Span), trace.INVALID_SPAN, None, "text"])
def test_a_mock_in_place_of_a_span_is_returned_and_is_no_parent(span):
    token = context.attach(context.Context({trace.propagation._SPAN_KEY: span}))
    assert context.get_current()[trace.propagation._SPAN_KEY] is span
    with tracekit.span("root") as root:
        assert root.parent is None
    context.detach(token)


def test_baggage_is_labels(exporter):
    token = context.attach(baggage.set_baggage("tenant", "a"))
    assert tracekit.current_labels() == {"tenant": "a"}
    with tracekit.use_labels(user="b"):
        assert dict(baggage.get_all()) == {"tenant": "a", "user": "b"}
        with tracekit.span("inside") as inside:
            assert inside.context.labels == {"tenant": "a", "user": "b"}
            inner = context.attach(baggage.remove_baggage("tenant"))
            assert tracekit.current_labels() == {"user": "b"}
            context.detach(inner)
    context.detach(token)
    assert tracekit.current_labels() == {}
    assert dict(baggage.get_all()) == {}


def test_baggage_gives_back_the_objects_that_were_put_in():
    value = object()
    token = context.attach(baggage.set_baggage("thing", value))
    assert baggage.get_baggage("thing") is value
    with tracekit.span("inside"):
        assert baggage.get_baggage("thing") is value
        with tracekit.use_labels(more="x"):
            assert baggage.get_baggage("thing") is value
        with tracekit.use_labels(thing="newer"):
            assert baggage.get_baggage("thing") == "newer"
        with tracekit.use_context(None):
            assert baggage.get_baggage("thing") is None
    context.detach(token)


def test_unchanged_labels_keep_their_properties():
    labels = tracekit.Labels.parse("a=1;meta=x,b=2")
    with tracekit.use_context(tracekit.SpanContext(labels=labels)):
        token = context.attach(baggage.set_baggage("c", "3"))
        assert str(tracekit.current_labels()) == "a=1;meta=x,b=2,c=3"
        context.detach(token)


def test_labels_of_baggage_are_made_when_something_asks_for_them(exporter, monkeypatch):
    made = []
    real = contexts._labels_now
    monkeypatch.setattr(contexts, "_labels_now", lambda *args: made.append(args) or real(*args))
    given = {"tenant": "a", "no token": "b"}
    token = context.attach(context.Context({baggage._BAGGAGE_KEY: given}))
    with tracekit.span("inside") as inside:
        assert dict(baggage.get_all()) == given
    assert made == []
    given["tenant"] = "changed later"
    assert inside.context.labels == {"tenant": "a"}
    assert (str(inside.context.labels), inside.context.labels.dropped, len(made)) == ("tenant=a", 0, 1)
    context.detach(token)


def test_labels_that_were_never_asked_for_do_not_pile_up():
    tokens = [context.attach(baggage.set_baggage("number", str(number))) for number in range(3000)]
    assert tracekit.current_labels() == {"number": "2999"}
    for token in tokens:
        context.detach(token)
    labels = tracekit.Labels.parse("a=1;meta=x")
    with tracekit.use_context(tracekit.SpanContext(labels=labels)):
        tokens = [context.attach(baggage.set_baggage(f"n{number}", "0")) for number in range(3)]
        assert str(tracekit.current_labels()) == "a=1;meta=x,n0=0,n1=0,n2=0"
        for token in tokens:
            context.detach(token)


def test_baggage_without_a_key_that_a_header_can_carry_is_no_label():
    token = context.attach(baggage.set_baggage("no token", "a"))
    carrier = {}
    with tracekit.span("inside") as inside:
        tracekit.inject(carrier)
    assert inside.context.labels == {}
    assert "baggage" not in carrier
    context.detach(token)


def test_baggage_that_no_header_can_carry_stays_in_the_process():
    class Unprintable:
        def __str__(self):
            raise ValueError

    for key, value in (("bad key", "x"), (7, "x"), ("key", Unprintable()), ("key", "\ud800")):
        token = context.attach(context.Context({baggage._BAGGAGE_KEY: {key: value}}))
        assert baggage.get_all()[key] is value
        with tracekit.span("inside"):
            tracekit.inject({})
        context.detach(token)


@pytest.mark.anyio
async def test_keys_cross_spans_and_tasks_and_threads(tracer):
    found = {}

    def look(name):
        found[name] = context.get_value(_SUPPRESS_INSTRUMENTATION_KEY)

    async def in_task():
        with tracekit.span("in task"):
            look("task")

    token = context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    with tracekit.span("native"), tracer.start_as_current_span("otel"), tracekit.use_labels(a="b"):
        look("span")
        async with anyio.create_task_group() as group:
            group.start_soon(in_task)
        await anyio.to_thread.run_sync(look, "thread")
    context.detach(token)
    look("after")
    assert found == {"span": True, "task": True, "thread": True, "after": None}


@pytest.mark.anyio
async def test_a_task_keeps_what_its_parent_detached():
    seen = []
    go = anyio.Event()

    async def child():
        await go.wait()
        seen.append((context.get_value("key"), baggage.get_baggage("tenant")))

    async with anyio.create_task_group() as group:
        token = context.attach(baggage.set_baggage("tenant", "a", context.set_value("key", "value")))
        group.start_soon(child)
        await anyio.lowlevel.checkpoint()
        context.detach(token)
        assert context.get_value("key") is None
        go.set()
    assert seen == [("value", "a")]


@pytest.mark.anyio
async def test_a_token_is_detached_by_another_task(tracer):
    tokens = []

    async def child():
        context.detach(tokens.pop())

    with tracer.start_as_current_span("parent") as span:
        tokens.append(context.attach(context.set_value("key", "value")))
        async with anyio.create_task_group() as group:
            group.start_soon(child)
        assert context.get_value("key") is None
        assert trace.get_current_span() is span


@pytest.mark.anyio
async def test_a_generator_detaches_in_the_context_of_its_consumer(tracer):
    async def body():
        with tracer.start_as_current_span("in the generator"):
            yield 1
            yield 2

    with tracer.start_as_current_span("consumer") as span:
        steps = body()
        await anext(steps)
        await steps.aclose()
        assert trace.get_current_span() is span
    assert context.get_current() == {}


def test_random_orders_in_four_threads_leave_nothing(exporter, tracer):
    errors = []

    def work(seed):
        chance = random.Random(seed)
        try:
            for number in range(200):
                tokens = []
                with tracer.start_as_current_span("a"):
                    tokens.append(context.attach(baggage.set_baggage("k", str(number))))
                    tokens.append(context.attach(context.set_value("m", number)))
                    with tracekit.span("b"), trace.use_span(tracer.start_span("c"), end_on_exit=True):
                        tokens.append(context.attach(context.set_value("n", number)))
                        chance.shuffle(tokens)
                        for token in tokens[: chance.randrange(4)]:
                            context.detach(token)
                for token in tokens:
                    context.detach(token)
                assert context.get_current() == {}
                assert tracekit.current_context() is None
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(exporter.spans) == 4 * 200 * 3


class Value:
    pass


def _attach(value):
    return context.attach(context.set_value("key", value))


def _attach_many(count):
    """Attach as many contexts, detach none, and return a weak reference to a value in each."""
    found = []
    for _ in range(count):
        value = Value()
        found.append(weakref.ref(value))
        _attach(value)
    return found


@pytest.mark.skipif(tracekit.IMPLEMENTATION != "compiled", reason="the plain form does not count references")
def test_contexts_that_are_never_detached_do_not_pile_up(tracer):
    def attach():
        token = _attach("kept")
        first = _attach_many(100)
        copied = contextvars.copy_context()
        second = _attach_many(100)
        with tracer.start_as_current_span("request"):
            inner = _attach("inner")
            third = _attach_many(100)
        assert context.get_value("key") is second[-1](), "those in the span went with it"
        context.detach(inner)
        context.detach(_attach("more"))
        assert context.get_value("key") is second[-1]()
        assert copied.run(context.get_value, "key") is first[-1]()
        del copied
        _attach_many(2)
        assert sum([value() is not None for value in (*first, *second, *third)]) <= 1
        context.detach(token)
        assert context.get_current() == {}

    contextvars.copy_context().run(attach)


def _attached_value(opened):
    """Return a weak reference to a value that is reachable from itself, through a Context and a scope."""
    value = Value()
    value.context = contextvars.copy_context()

    def attach():
        context.attach(context.set_value("value", value))
        opened()

    value.context.run(attach)
    return weakref.ref(value)


def _on_top_of_it():
    tracekit.use_labels(a="b").__enter__()
    tracekit.use_context(tracekit.SpanContext("1" * 32, "2" * 16)).__enter__()


@pytest.mark.parametrize("opened", [lambda: None, context.get_current, _on_top_of_it])
def test_a_cycle_through_a_context_is_collected(opened):
    reference = _attached_value(opened)
    gc.collect()
    assert reference() is None


def test_a_cycle_through_baggage_is_collected():
    def make():
        value = Value()
        value.context = contextvars.copy_context()
        value.context.run(lambda: (context.attach(baggage.set_baggage("v", value)), _on_top_of_it()))
        return weakref.ref(value)

    reference = make()
    gc.collect()
    assert reference() is None


def test_a_value_in_a_scope_that_is_current_is_not_collected():
    value = Value()
    token = context.attach(context.set_value("value", value))
    reference = weakref.ref(value)
    del value
    with tracekit.span("inside"):
        gc.collect()
        assert context.get_value("value") is reference()
    context.detach(token)
    del token
    assert reference() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_the_child_of_a_fork_the_parents_span_is_remote(tracer):
    with tracer.start_as_current_span("parent") as span:
        assert trace.get_current_span() is span
        context.attach(context.set_value("key", "value"))
        read, write = os.pipe()
        child = os.fork()
        if not child:
            found = trace.get_current_span()
            ok = (
                not isinstance(found, bridge.OtelSpan)
                and found.get_span_context().is_remote
                and found.get_span_context().span_id == span.get_span_context().span_id
                and context.get_value("key") == "value"
            )
            os.write(write, b"1" if ok else b"0")
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 1) == b"1"
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("given", [None, context.Context(), context.Context({"key": 1})])
def test_set_baggage_does_as_the_apis_own(given, tracer):
    assert baggage.set_baggage is not EARLY_SET_BAGGAGE
    with tracer.start_as_current_span("a"):
        for earlier in (context.Context({"other": 1}), baggage.set_baggage("a", [1]), baggage.clear()):
            token = context.attach(earlier)
            before = dict(baggage.get_all())
            assert baggage.set_baggage("b", "2", given) == EARLY_SET_BAGGAGE("b", "2", given)
            assert type(baggage.set_baggage("b", "2", given)) is context.Context
            assert baggage.get_all() == before
            context.detach(token)
    with pytest.raises(TypeError):
        baggage.set_baggage([], "a")


@pytest.mark.parametrize("attached", [{}, {"key": 1}, Mock()])
def test_set_baggage_where_something_else_is_attached(attached, tracer):
    def made(function):
        try:
            return function("a", "1")
        except Exception as error:
            return type(error)

    token = context.attach(attached)
    assert made(baggage.set_baggage) == made(EARLY_SET_BAGGAGE)
    context.detach(token)
