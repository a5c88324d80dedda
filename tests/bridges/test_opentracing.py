"""OpenTracing's API on tracekit: OpenTracing's own harness, and what it does not ask for."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref

import opentracing
import pytest
from opentracing import Format
from opentracing.harness.api_check import APICompatibilityCheckMixin
from opentracing.harness.scope_check import ScopeCompatibilityCheckMixin

import tracekit
from tracekit.bridges.opentracing import Scope, Tracer
from tracekit.testing import span_tree
from tracekit.wire import b3

from ..tools.interrupting import Interrupted, Stop, interrupts
from ..tools.proxies import Failing, Posing


class TestApi(APICompatibilityCheckMixin):
    def tracer(self):
        return Tracer()

    def is_parent(self, parent, span):
        made = span.tracekit_span.parent
        return made is None if parent is None else made == parent.tracekit_span.context


class TestScopes(ScopeCompatibilityCheckMixin):
    def scope_manager(self):
        return Tracer().scope_manager


class TestScopesInATask(TestScopes):
    def run_test(self, test_fn):
        async def run():
            test_fn()

        asyncio.run(run())


@pytest.fixture
def tracer(exporter):
    """A tracer; spans are in ``exporter.spans``."""
    return Tracer(opentracing.ScopeManager())


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_span_ends_where_a_signal_handler_raises_while_its_error_is_recorded(exporter, tracer):
    with interrupts():
        with pytest.raises(Stop), tracer.start_active_span("a"):
            raise Interrupted
        assert tracekit.current_span() is None
        with pytest.raises(Stop), tracer.start_span("b"):
            raise Interrupted
    assert [span.name for span in exporter.spans] == ["a", "b"]
    assert {span.status.description for span in exporter.spans} == {""}  # not "abandoned"


def test_both_apis_nest_in_each_other(exporter, tracer):
    with (
        tracer.start_active_span("a") as a,
        tracekit.span("b") as b,
        tracer.start_active_span("c"),
        tracekit.span("d"),
    ):
        pass
    assert span_tree(exporter.spans) == "a\n  b\n    c\n      d"
    assert b.parent == a.span.tracekit_span.context


def test_the_active_scope_and_span_are_the_very_objects(tracer):
    with tracer.start_active_span("a") as a:
        with tracekit.span("native") as native:
            assert tracer.active_span.tracekit_span is native
            assert tracer.scope_manager.active is not a
            with tracekit.use_span(a.span.tracekit_span):
                assert tracer.active_span is a.span
        with tracekit.use_labels(user="ada"):
            assert tracer.scope_manager.active is a
        assert tracer.scope_manager.active is a
    assert tracer.active_span is None


def test_a_scope_that_nothing_refers_to_is_closed_through_the_manager(exporter, tracer):
    tracer.start_active_span("outer")
    tracer.start_active_span("inner")
    tracer.scope_manager.active.close()
    assert tracer.active_span.operation_name == "outer"
    tracer.scope_manager.active.close()
    assert tracer.scope_manager.active is None
    assert span_tree(exporter.spans) == "outer\n  inner"


def test_closing_a_scope_twice_or_out_of_order_does_nothing(exporter, tracer):
    outer, inner = tracer.start_active_span("outer"), tracer.start_active_span("inner")
    outer.close()
    assert tracer.scope_manager.active is inner
    assert exporter.spans == []
    inner.close()
    inner.close()
    assert tracer.scope_manager.active is outer
    outer.close()
    assert [span.name for span in exporter.spans] == ["inner", "outer"]


def test_a_scope_survives_the_end_of_a_span_under_it(exporter, tracer):
    under = tracekit.span("under")
    under.__enter__()
    with tracer.start_active_span("over") as over:
        under.__exit__(None, None, None)
        assert tracer.scope_manager.active is over
        over.span.set_baggage_item("user", "ada")
        assert tracekit.current_labels() == {"user": "ada"}
    assert tracer.scope_manager.active is None
    assert [span.name for span in exporter.spans] == ["under", "over"]


def test_a_span_that_is_left_open_inside_does_not_keep_a_scope_open(exporter, tracer):
    with tracer.start_active_span("a"):
        inner = tracekit.span("left open")
        inner.__enter__()
    assert [span.name for span in exporter.spans] == ["a"]
    inner.__exit__(None, None, None)
    assert tracer.scope_manager.active is None


@pytest.mark.parametrize("is_sampled", [True, False])
def test_baggage_set_on_an_open_span_reaches_children_and_carriers(exporter, tracer, is_sampled):
    if not is_sampled:
        tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff(), environ={})
    with tracer.start_active_span("root"), tracer.start_active_span("a") as a:
        before = tracer.start_span("before")
        a.span.set_baggage_item("user", "ada").set_baggage_item("n", 7)
        assert a.span.context.baggage == {"user": "ada", "n": "7"}
        assert tracekit.current_labels() == {"user": "ada", "n": "7"}
        assert tracekit.inject({})["baggage"] == "user=ada,n=7"
        after = tracer.start_span("after")
    assert tracekit.current_labels() == {}
    assert after.get_baggage_item("user") == "ada"
    assert before.get_baggage_item("user") is None
    assert before.get_baggage_item(None) is None


def test_baggage_reaches_a_span_that_was_entered_with_and_its_tasks(tracer):
    async def run():
        with tracekit.span("native") as native:
            task = asyncio.ensure_future(_labels())
            tracer.active_span.set_baggage_item("user", "ada")
            assert tracekit.current_context().labels == native.context.labels == {"user": "ada"}
            return await task

    async def _labels():
        return tracekit.current_labels()

    assert asyncio.run(run()) == {"user": "ada"}


def test_a_key_that_is_no_label_is_reported(lenient, tracer, caplog):
    span = tracer.start_span("a").set_baggage_item("no label", "x").set_baggage_item("", "x")
    assert span.context.baggage == {}
    assert "label" in caplog.text


@pytest.mark.parametrize("format", [Format.TEXT_MAP, Format.HTTP_HEADERS, Format.BINARY])
@pytest.mark.parametrize("formats", [None, [b3.SINGLE, tracekit.wire.w3c.BAGGAGE]])
def test_a_context_travels_in_every_format(exporter, tracer, format, formats):
    tracekit.configure(exporter=exporter, formats=formats, environ={})
    carrier = bytearray() if format == Format.BINARY else {}
    span = tracer.start_span("a").set_baggage_item("user", "ada l.\n:")
    tracer.inject(span.context, format, carrier)
    found = tracer.extract(format, carrier)
    assert (found.trace_id, found.span_id) == (span.context.trace_id, span.context.span_id)
    assert found.baggage == {"user": "ada l.\n:"}
    assert found.tracekit_context.sampled
    child = tracer.start_span("b", child_of=found)
    assert child.tracekit_span.parent.is_remote
    assert child.context.baggage == {"user": "ada l.\n:"}


@pytest.mark.parametrize(
    "carrier", [b"", b"\xff", b"traceparent", b"traceparent:\n:\n\n", bytes(1 << 17), 7, None, "text"]
)
def test_a_malformed_binary_carrier_holds_no_context(lenient, tracer, carrier):
    assert tracer.extract(Format.BINARY, carrier) is None


def test_carriers_and_contexts_of_the_wrong_kind_raise_nothing(lenient, tracer):
    span = tracer.start_span("a")
    for format in (Format.TEXT_MAP, Format.BINARY):
        tracer.inject(span.context, format, 7)
        tracer.inject(opentracing.SpanContext(), format, {})
        tracer.inject(None, format, {})
        assert tracer.extract(format, 7) is None
    carrier = {}
    tracer.inject(span, Format.TEXT_MAP, carrier)
    assert carrier["traceparent"]


def test_the_kind_may_come_late(exporter, tracer):
    with tracer.start_span("a") as a, tracer.start_span("b", tags={"span.kind": "client"}):
        a.set_tag("span.kind", "server")
        a.set_tag("span.kind", "no kind")
    a.set_tag("span.kind", "client")
    assert [span.kind for span in exporter.spans] == ["client", "server"]


def test_the_sampling_priority_may_come_late(exporter, tracer):
    with tracer.start_active_span("a") as a:
        a.span.set_tag("sampling.priority", 0)
        assert not tracekit.current_context().sampled
        with tracer.start_active_span("b") as b:
            assert not b.span.context.tracekit_context.sampled
            b.span.set_tag("sampling.priority", 1).set_tag("c", 1)
            assert b.span.context.span_id != a.span.context.span_id
            with tracekit.span("d"):
                pass
    assert span_tree(exporter.spans).startswith("b <- ")
    assert exporter.spans[0].parent == b.span.context.tracekit_context
    assert dict(exporter.spans[1].attributes) == {"sampling.priority": 1, "c": 1}
    assert 0 < exporter.spans[1].start_ns <= exporter.spans[0].start_ns
    assert a.span.context.trace_id == b.span.context.trace_id
    now = tracekit.statistics()
    assert now.started == now.ended


def test_the_sampling_priority_overrides_the_sampler(exporter, tracer):
    tracekit.configure(exporter=exporter, sampler=tracekit.Ratio(0.0), environ={})
    tags = {"sampling.priority": 1, "a": 1}
    tracer.start_span("kept", tags=tags, start_time=1.5).finish(2.5)
    tracer.start_span("dropped", tags={"sampling.priority": "what"}).finish()
    tracekit.configure(exporter=exporter, sampler=tracekit.Ratio(1.0), environ={})
    tracer.start_span("dropped", tags={"sampling.priority": 0}).finish()
    tracer.start_span("counted").set_tag("sampling.priority", 0).set_tag("sampling.priority", 1).finish()
    kept, counted = exporter.spans
    assert (kept.name, kept.start_ns, kept.end_ns, dict(kept.attributes)) == (
        "kept",
        1_500_000_000,
        2_500_000_000,
        tags,
    )
    assert tracekit.adjusted_count(counted) is None


def test_the_sampling_priority_records_nothing_where_there_is_no_exporter(tracer):
    tracekit.configure(environ={})
    span = tracer.start_span("a", tags={"sampling.priority": 1})
    assert not span.tracekit_span.is_recording
    assert not span.context.tracekit_context.sampled


def test_references(lenient, exporter, tracer):
    a, b, c = (tracer.start_span(name) for name in "abc")
    foreign = opentracing.SpanContext()
    one = tracer.start_span(
        "one",
        references=[
            opentracing.follows_from(a.context),
            opentracing.child_of(foreign),
            opentracing.child_of(b.context),
            opentracing.child_of(c.context),
            opentracing.child_of(None),
            "no reference",
        ],
    )
    two = tracer.start_span("two", references=opentracing.follows_from(a.context))
    three = tracer.start_span("three", child_of=a, ignore_active_span=True, references=7)
    with tracer.start_active_span("active"):
        four = tracer.start_span("four", ignore_active_span=True)
    assert one.tracekit_span.parent == b.context.tracekit_context
    links = [(link.context, link.attributes["opentracing.ref_type"]) for link in one.tracekit_span.links]
    assert links == [(c.context.tracekit_context, "child_of"), (a.context.tracekit_context, "follows_from")]
    assert two.tracekit_span.parent == a.context.tracekit_context
    assert [link.context for link in two.tracekit_span.links] == [a.context.tracekit_context]
    assert three.tracekit_span.parent == a.context.tracekit_context
    assert three.tracekit_span.links == ()
    assert four.tracekit_span.parent is None


@pytest.mark.parametrize("start", ["start_span", "start_active_span"])
def test_an_exception_is_recorded_once(exporter, tracer, start):
    with pytest.raises(ValueError, match="broken"), tracer.start_active_span("outer"), getattr(tracer, start)("inner"):
        raise ValueError("broken")
    inner, outer = exporter.spans
    assert inner.status == outer.status == ("error", "ValueError: broken")
    assert [event.name for event in inner.events] == ["exception"]
    assert outer.events == ()


def test_a_cancellation_is_no_error(exporter, tracer):
    with pytest.raises(asyncio.CancelledError), tracer.start_active_span("a"):
        raise asyncio.CancelledError
    assert exporter.spans[0].status.code == "cancelled"


def test_log_kv_is_an_event(lenient, exporter, tracer):
    with tracer.start_span("a") as a:
        a.log_kv({"event": "first byte", "size": 5, "to": object()}, 1.5)
        a.log_kv({"size": 6})
        a.log_kv({"event": "error", "error.object": ValueError("broken"), "message": "m", "extra": 1}, timestamp=2)
        a.log_kv({"event": "error", "error.kind": "E", "message": "m", "stack": "s"})
        a.log_kv(None)
        a.log_kv({})
        a.log_kv({"event": "now"}, timestamp="never")
    first, second, third, fourth, fifth = exporter.spans[0].events
    assert (first.name, first.time_ns, first.attributes["size"]) == ("first byte", 1_500_000_000, 5)
    assert first.attributes["to"].startswith("<object")
    assert (second.name, dict(second.attributes)) == ("log", {"size": 6})
    assert (third.name, third.time_ns, third.attributes["exception.type"]) == ("exception", 2_000_000_000, "ValueError")
    assert (third.attributes["exception.message"], third.attributes["extra"]) == ("broken", 1)
    assert dict(fourth.attributes) == {
        "exception.type": "E",
        "exception.message": "m",
        "exception.stacktrace": "s",
    }
    assert fifth.name == "now"


def test_tags(lenient, exporter, tracer):
    span = tracer.start_span("a", tags={"error": "true", 7: [1, 2]})
    span.set_tag("ratio", 0.5).set_tag("what", Exception("x")).set_tag("none", None).set_operation_name("b").finish()
    tracer.start_span("c", tags="no tags", start_time="never").set_tag("error", False).finish("never")
    (made, other) = exporter.spans
    assert (made.name, made.status.code, made.attributes["7"]) == ("b", "error", "[1, 2]")
    assert (made.attributes["ratio"], made.attributes["what"]) == (0.5, "x")
    assert other.status.code == "unset"


def test_what_has_no_text_costs_only_itself(lenient, exporter, tracer):
    class Mute:
        def __str__(self):
            raise RuntimeError("no text")

    with tracer.start_span(Mute(), tags={Mute(): Mute()}) as span:
        span.set_tag(Mute(), Mute()).log_kv({Mute(): Mute()}).set_baggage_item(Mute(), Mute())
    assert exporter.spans[0].name == ""


@pytest.mark.parametrize("kind", [str, int, ValueError, bytearray, None])
def test_proxies_in_place_of_arguments_raise_nothing(lenient, exporter, tracer, kind):
    wrong = Failing() if kind is None else Posing(kind)
    with tracer.start_span(wrong, wrong, tags={"tag": wrong}, start_time=wrong) as span:
        span.set_operation_name(wrong).set_tag(wrong, wrong).log_kv({"event": wrong, "error.object": wrong}, wrong)
        span.set_baggage_item(wrong, wrong).get_baggage_item(wrong)
        tracer.inject(wrong, Format.TEXT_MAP, {})
        tracer.inject(span.context, Format.BINARY, wrong)
        assert tracer.extract(Format.TEXT_MAP, wrong) is tracer.extract(Format.BINARY, wrong) is None
        span.finish(wrong)
    assert len(exporter.spans) == 1


def test_no_parent_scope_empties_tracekits_scope(tracer):
    from opentracing.scope_managers.contextvars import no_parent_scope

    with tracer.start_active_span("a") as a:
        with no_parent_scope():
            assert tracer.scope_manager.active is None
            assert tracer.start_span("root").tracekit_span.parent is None
        assert tracer.scope_manager.active is a


def test_a_task_inherits_the_scope_and_does_not_keep_its_span(exporter, tracer):
    async def run():
        go = asyncio.Event()

        async def work():
            assert isinstance(tracer.scope_manager.active, Scope)
            await go.wait()
            return tracer.start_span("late").tracekit_span.parent

        with tracer.start_active_span("a") as a:
            task = asyncio.create_task(work())
            await asyncio.sleep(0)
        face, context = weakref.ref(a.span), a.span.context.tracekit_context
        del a
        gc.collect()
        assert face() is None
        go.set()
        assert await task == context

    asyncio.run(run())


def test_a_hooked_thread_knows_the_scope(exporter, tracer):
    found = []
    with tracer.start_active_span("a") as a:
        job = tracekit.wrap(lambda: found.append(tracer.scope_manager.active))
        contextvars.Context().run(job)
        inside = tracekit.new_context(a.span.tracekit_span)
        found.append(inside.run(lambda: tracer.scope_manager.active.span))
    assert found == [a, a.span]


def test_a_scope_that_is_never_closed_is_freed_with_its_task(exporter, tracer):
    async def work():
        return weakref.ref(tracer.start_active_span("left open").span)

    face = asyncio.run(work())
    gc.collect()
    assert face() is None
    assert exporter.spans[0].status.code == "cancelled"


def test_both_bridges_at_once(exporter, provider, tracer):
    from opentelemetry import baggage, context, trace

    library = trace.get_tracer("library")
    with tracer.start_active_span("a") as a:
        a.span.set_baggage_item("user", "ada")
        assert baggage.get_baggage("user") == "ada"
        assert trace.get_current_span().tracekit_span is a.span.tracekit_span
        assert tracer.scope_manager.active is a
        with library.start_as_current_span("b"):
            assert tracer.active_span.operation_name == "b"
        token = context.attach(context.set_value("key", 1))
        with tracer.start_active_span("c") as c:
            assert context.get_value("key") == 1
            assert tracer.scope_manager.active is c
        assert tracer.scope_manager.active is a
        context.detach(token)
    assert span_tree(exporter.spans) == "a\n  b\n  c"


def test_processors_get_the_spans(exporter, provider, tracer):
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer.start_span("a").finish()
    assert [span.name for span in memory.get_finished_spans()] == ["a"]


def test_processors_get_the_start_of_a_span_that_is_sampled_late(exporter, provider, tracer):
    from opentelemetry.sdk.trace import SpanProcessor

    class Log(SpanProcessor):
        def on_start(self, span, parent_context=None):
            log.append(("start", span.name))

        def on_end(self, span):
            log.append(("end", span.name))

    log = []
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff(), environ={})
    provider.add_span_processor(Log())
    tracer.start_span("late").set_tag("sampling.priority", 1).finish()
    tracer.start_span("at once", tags={"sampling.priority": 1}).finish()
    tracer.start_span("never").finish()
    assert log == [("start", "late"), ("end", "late"), ("start", "at once"), ("end", "at once")]


class Hostile:
    """An object whose conversions raise an exception that ``except Exception`` does not catch."""

    def __str__(self):
        raise KeyboardInterrupt

    __int__ = __index__ = __float__ = __repr__ = __str__


@pytest.mark.usefixtures("lenient")
def test_conversions_that_raise_do_not_reach_the_program(tracer):
    tags = {"a": Hostile(), "span.kind": [Hostile()], "sampling.priority": Hostile()}
    span = tracer.start_span(Hostile(), tags=tags, start_time=Hostile())
    for key, value in tags.items():
        span.set_tag(key, value)
    span.set_tag("sampling.priority", 10**400)
    span.set_operation_name(Hostile())
    span.log_kv({"event": Hostile(), "error.object": Hostile()}, timestamp=Hostile())
    span.set_baggage_item("a", Hostile())
    span.set_baggage_item(Hostile(), "a")
    assert span.get_baggage_item(Hostile()) is None
    span.finish(Hostile())
