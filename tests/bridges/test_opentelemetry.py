"""Spans, tracers and propagation through OpenTelemetry's API."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import anyio
import anyio.lowlevel
import httpx
import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import tracekit
from tracekit._core import misuse
from tracekit.bridges import opentelemetry as bridge
from tracekit.testing import span_tree
from tracekit.wire import b3

from ..tools.interrupting import Interrupted, Stop, interrupts
from ..tools.proxies import Failing, Posing

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_both_apis_nest_in_each_other(exporter, tracer):
    with (
        tracer.start_as_current_span("a") as a,
        tracekit.span("b") as b,
        tracer.start_as_current_span("c") as c,
        trace.use_span(tracer.start_span("d"), end_on_exit=True) as d,
        tracekit.span("e"),
    ):
        assert tracekit.current_span().name == "e"
    assert span_tree(exporter.spans) == "a\n  b\n    c\n      d\n        e"
    assert c.parent is trace.NonRecordingSpan(c.parent).get_span_context()
    assert a.tracekit_span.context == b.parent
    assert d.parent is c.get_span_context()


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_span_ends_where_a_signal_handler_raises_while_its_error_is_recorded(exporter, tracer):
    with interrupts():
        with pytest.raises(Stop), tracer.start_as_current_span("a"):
            raise Interrupted
        with pytest.raises(Stop), tracer.start_span("b"):
            raise Interrupted
        with pytest.raises(Stop), trace.use_span(tracer.start_span("c"), end_on_exit=True):
            raise Interrupted
    assert tracekit.current_span() is None
    assert [span.name for span in exporter.spans] == ["a", "b", "c"]
    assert {span.status.description for span in exporter.spans} == {""}  # not "abandoned"


def test_the_current_span_is_the_very_object(tracer):
    with tracer.start_as_current_span("a") as a:
        assert trace.get_current_span() is a
        assert isinstance(a, trace.Span)
        with tracekit.use_span(a.tracekit_span):
            assert trace.get_current_span() is a
        with tracekit.span("native") as native:
            face = trace.get_current_span()
            assert face.tracekit_span is native
            assert face.parent is a.get_span_context()
        a.anything = 1
        assert trace.get_current_span().anything == 1


def test_attributes_of_other_types_are_as_the_documentation_says(exporter, tracer):
    class Article:
        def __str__(self):
            return "text"

        def __repr__(self):
            return "repr"

    with tracer.start_as_current_span("a", attributes={"none": None, "kept": 1}) as span:
        span.set_attribute("kept", None)
        span.set_attribute("article", Article())
    assert (dict(span.attributes), span.dropped_attributes) == ({"kept": 1, "article": "text"}, 2)


@pytest.mark.parametrize("kind", [str, int, dict, ValueError, Status, StatusCode, None])
def test_proxies_in_place_of_arguments_raise_nothing(monkeypatch, exporter, provider, kind):
    wrong = Failing() if kind is None else Posing(kind)
    monkeypatch.setattr(misuse, "_strict", False)
    tracer = provider.get_tracer(wrong, wrong, wrong, wrong)
    with tracer.start_as_current_span(wrong, wrong, wrong, wrong, wrong, wrong) as span:
        span.set_attribute(wrong, wrong)
        span.set_attributes(wrong)
        span.add_event(wrong, wrong, wrong)
        span.add_link(wrong, wrong)
        span.set_status(wrong, wrong)
        span.set_status(StatusCode.ERROR, wrong)
        span.record_exception(wrong, wrong, wrong, wrong)
        span.update_name(wrong)
        context.detach(context.attach(wrong))
        propagate.inject({}, context=wrong)
        assert propagate.extract({}, context=wrong) == {}
        assert propagate.extract(wrong) == {}
        assert trace.get_current_span() is span
        span.end(wrong)
    assert len(exporter.spans) == 1


def test_an_unsampled_span_is_non_recording(exporter):
    tracekit.configure(exporter=exporter, sampler=tracekit.AlwaysOff(), environ={})
    with trace.get_tracer("library").start_as_current_span("unsampled") as span:
        assert isinstance(span, trace.NonRecordingSpan)
        assert trace.get_current_span() is span
        assert not span.is_recording()
        assert span.get_span_context().is_valid
        span.set_attribute("a", 1)
        span.set_status(StatusCode.ERROR)


@pytest.fixture
def _installed(provider):
    pass


pytestmark = pytest.mark.usefixtures("_installed")


def test_a_span_has_what_it_was_given(exporter, tracer):
    target = trace.SpanContext(5, 6, is_remote=True)
    links = [trace.Link(target, {"why": "batch"}), trace.Link(trace.INVALID_SPAN_CONTEXT), None]
    span = tracer.start_span(
        "name", kind=SpanKind.CLIENT, attributes={"a": 1, "": 2, 3: 4}, links=links, start_time=1_000
    )
    span.set_attributes({"b": [1, 2]})
    span.set_attribute(7, "ignored")
    span.add_event("event", {"x": "y"}, timestamp=1_500)
    span.add_link(trace.SpanContext(7, 8, is_remote=False))
    span.update_name("renamed")
    span.end(2_000)
    span.end(9_000)
    (made,) = exporter.spans
    assert (made.name, made.kind, made.start_ns, made.end_ns) == ("renamed", "client", 1_000, 2_000)
    assert dict(made.attributes) == {"a": 1, "b": (1, 2)} or dict(made.attributes) == {"a": 1, "b": [1, 2]}
    assert made.events == (tracekit.Event("event", 1_500, {"x": "y"}),)
    assert [(link.context.span_id, dict(link.attributes)) for link in made.links] == [
        ("0000000000000006", {"why": "batch"}),
        ("0000000000000008", {}),
    ]
    assert made.instrumentation[:2] == ("library", "1.2")


@pytest.mark.parametrize(
    ("calls", "code", "description"),
    [
        ([(StatusCode.OK,)], "ok", ""),
        ([(StatusCode.ERROR, "broken")], "error", "broken"),
        ([(Status(StatusCode.ERROR, "broken"),)], "error", "broken"),
        ([(StatusCode.OK,), (StatusCode.ERROR, "late")], "ok", ""),
        ([(StatusCode.ERROR, "first"), (StatusCode.UNSET,)], "error", "first"),
        ([(None,)], "unset", ""),
    ],
)
def test_statuses(exporter, tracer, calls, code, description):
    span = tracer.start_span("span")
    for call in calls:
        span.set_status(*call)
    span.end()
    assert exporter.spans[0].status == (code, description)


def test_an_exception_is_recorded_once_a_trace(exporter, tracer):
    with (
        pytest.raises(ValueError, match="broken"),
        tracer.start_as_current_span("a"),
        tracer.start_as_current_span("b"),
    ):
        raise ValueError("broken")
    inner, outer = exporter.spans
    assert [event.name for event in inner.events] == ["exception"]
    assert outer.events == ()
    assert inner.status == outer.status == ("error", "ValueError: broken")


@pytest.mark.parametrize("call", ["start_as_current_span", "start_span"])
def test_an_exception_is_not_recorded_where_that_was_asked_for(exporter, tracer, call):
    span = getattr(tracer, call)("a", record_exception=False, set_status_on_exception=False)
    with pytest.raises(ValueError, match="broken"), span:
        raise ValueError("broken")
    assert exporter.spans[0].events == ()
    assert exporter.spans[0].status.code == "unset"


def test_record_exception_at_a_time(exporter, tracer):
    with tracer.start_as_current_span("a") as span:
        span.record_exception(ValueError("broken"), {"extra": 1}, timestamp=5, escaped=True)
        span.record_exception("no exception")
    (event,) = exporter.spans[0].events
    assert event.time_ns == 5
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.escaped"] == "True"
    assert event.attributes["extra"] == 1


def test_a_span_outlives_its_with_block_where_that_was_asked_for(exporter, tracer):
    with tracer.start_as_current_span("a", end_on_exit=False) as span:
        pass
    assert span.is_recording()
    assert exporter.spans == []
    span.end()
    assert [made.name for made in exporter.spans] == ["a"]


@pytest.mark.anyio
async def test_start_as_current_span_decorates_functions_of_both_kinds(exporter, tracer):
    @tracer.start_as_current_span("sync")
    def one(value):
        return value, trace.get_current_span().name

    @tracer.start_as_current_span("async")
    async def two(value):
        await anyio.lowlevel.checkpoint()
        return value, trace.get_current_span().name

    assert one(1) == (1, "sync")
    assert one(2) == (2, "sync")
    assert await two(value=3) == (3, "async")
    assert [span.name for span in exporter.spans] == ["sync", "sync", "async"]


def test_a_context_that_is_given_has_the_parent_and_not_the_baggage(tracer):
    elsewhere = propagate.extract({"traceparent": TRACEPARENT, "baggage": "there=1"})
    token = context.attach(baggage.set_baggage("here", "2"))
    with tracer.start_as_current_span("child", context=elsewhere) as child:
        assert child.parent.span_id == 0xB7AD6B7169203331
        assert dict(baggage.get_all()) == {"here": "2"}
        assert trace.get_current_span() is child
        with tracer.start_as_current_span("root", context=context.Context()) as root:
            assert root.parent is None
            assert dict(baggage.get_all()) == {"here": "2"}
    context.detach(token)


def test_a_local_parent_in_a_context_is_the_parent(tracer):
    parent = tracer.start_span("parent")
    child = tracer.start_span("child", context=trace.set_span_in_context(parent))
    assert child.parent is parent.get_span_context()
    child.end()
    parent.end()


def test_propagation_in_every_configured_format(exporter):
    tracekit.configure(exporter=exporter, formats=[b3.SINGLE], environ={})
    remote = propagate.extract({"b3": "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-d"})
    headers = {}
    token = context.attach(remote)
    assert tracekit.current_context().is_remote
    with tracekit.span("child"):
        propagate.inject(headers)
    context.detach(token)
    assert headers["b3"].startswith("463ac35c9f6413ad48485a3953bb6124-")
    assert headers["b3"].split("-")[2] == "d"
    assert propagate.get_global_textmap().fields == {"b3"}


def test_labels_that_were_extracted_keep_their_properties(exporter):
    received = {"traceparent": TRACEPARENT, "baggage": "a=1;meta=x,b=2"}
    token = context.attach(propagate.extract(received))
    assert baggage.get_baggage("a") == "1"
    with tracekit.span("child"):
        sent = {}
        propagate.inject(sent)
    context.detach(token)
    assert sent["baggage"] == received["baggage"]
    assert exporter.spans[0].parent.is_remote


def test_baggage_that_does_not_fit_writes_no_header():
    headers = {}
    propagate.inject(headers, baggage.set_baggage("k", "v" * 20_000))
    assert headers == {}


def test_a_context_is_injected_without_being_current(tracer):
    span = tracer.start_span("a")
    headers = {}
    propagate.inject(headers, baggage.set_baggage("k", "v", trace.set_span_in_context(span)))
    assert headers["traceparent"].split("-")[2] == f"{span.get_span_context().span_id:016x}"
    assert headers["baggage"] == "k=v"
    span.end()


@pytest.mark.parametrize("carrier", [{}, {"traceparent": "bad"}, {"traceparent": [TRACEPARENT, TRACEPARENT]}])
def test_nothing_is_extracted_from_a_carrier_without_one_valid_header(carrier, tracer):
    with tracer.start_as_current_span("current"):
        assert propagate.extract(carrier) == {}
        given = context.get_current()
        assert propagate.extract(carrier, given) is given


def test_a_getter_that_fails_costs_the_parent_only():
    class Getter:
        def get(self, carrier, key):
            raise KeyError(key)

        def keys(self, carrier):
            raise KeyError

    assert propagate.extract(object(), getter=Getter()) == {}


def test_calls_after_the_end_have_no_effect(exporter, tracer):
    span = tracer.start_span("a")
    span.end()
    span.set_attribute("a", 1)
    span.add_event("e")
    span.set_status(StatusCode.ERROR)
    span.record_exception(ValueError())
    span.update_name("b")
    span.end(5)
    assert len(exporter.spans) == 1
    assert exporter.spans[0].name == "a"
    assert not exporter.spans[0].attributes


class Odd:
    def __str__(self):
        raise ValueError

    def __int__(self):
        raise ValueError


def test_bad_arguments_never_raise(exporter, tracer):
    odd = Odd()
    span = tracer.start_span(odd, context={"x": odd}, kind=[], attributes=odd, links=[odd], start_time=odd)
    span.set_attribute("a", odd)
    span.set_attribute(None, 1)
    span.set_attributes(odd)
    span.add_event(odd, odd, odd)
    span.add_link(odd)
    span.set_status([], odd)
    tracer.start_span("b", context=odd, links=odd).end()
    propagate.inject({}, odd)
    span.record_exception(odd, odd, odd)
    span.update_name(odd)
    span.end(odd)
    assert len(exporter.spans) == 2


def test_a_tracer_got_before_install_works_after_it(exporter):
    bridge.uninstall()
    early = trace.ProxyTracer("early", "1")
    bridge.install()
    with early.start_as_current_span("a"):
        pass
    assert exporter.spans[0].instrumentation.name == "early"


def test_install_twice_and_uninstall_twice(provider):
    assert bridge.install() is provider
    bridge.uninstall()
    bridge.uninstall()
    assert type(context._RUNTIME_CONTEXT).__name__ == "ContextVarsRuntimeContext"
    assert bridge.install() is trace.get_tracer_provider()


def test_replace_sdk_puts_the_provider_where_programs_look_for_it(exporter):
    import opentelemetry.sdk.trace as sdk

    original = sdk.TracerProvider
    bridge.install(replace_sdk=True)
    assert sdk.TracerProvider is bridge.TracerProvider
    with sdk.TracerProvider().get_tracer("own").start_as_current_span("a"):
        pass
    assert [span.name for span in exporter.spans] == ["a"]
    bridge.uninstall()
    assert sdk.TracerProvider is original


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (context, "_RUNTIME_CONTEXT"),
        (context, "attach"),
        (context, "detach"),
        (context, "get_current"),
        (propagate, "_HTTP_TEXT_FORMAT"),
        (trace, "_TRACER_PROVIDER"),
        (trace, "_TRACER_PROVIDER_SET_ONCE"),
        (trace, "get_current_span"),
        (trace, "use_span"),
    ],
)
def test_a_name_that_a_newer_api_has_not_is_one_warning(caplog, monkeypatch, module, name):
    bridge.uninstall()
    monkeypatch.delattr(module, name)
    provider = bridge.install()
    assert bridge.install() is provider
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"opentelemetry has no {name}: " in caplog.text
    with provider.get_tracer("shop").start_as_current_span("work") as span:
        assert tracekit.current_span() is span.tracekit_span
    bridge.uninstall()


@pytest.mark.slow
def test_neither_private_names_nor_metrics_are_needed_to_import_the_bridge():
    program = """
import sys
import opentelemetry.context.context as module, opentelemetry.trace.propagation as propagation
from opentelemetry import baggage, context, trace

names = propagation._SPAN_KEY, baggage._BAGGAGE_KEY
del module._RuntimeContext, context._SUPPRESS_INSTRUMENTATION_KEY, context._SUPPRESS_HTTP_INSTRUMENTATION_KEY
from tracekit.bridges import opentelemetry
from tracekit.bridges._opentelemetry.runtime import BAGGAGE_KEY, SPAN_KEY

assert (SPAN_KEY, BAGGAGE_KEY) == names
assert "opentelemetry.metrics" not in sys.modules, "it takes as long to import as the whole bridge"
opentelemetry.install()
with trace.get_tracer("shop").start_as_current_span("work") as span:
    assert trace.get_current_span() is span
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def _shop(request):
    with tracekit.span("native"), trace.get_tracer("shop").start_as_current_span("otel"):
        return PlainTextResponse(propagate.inject.__name__)


@pytest.mark.anyio
async def test_starlette_with_its_own_telemetry_is_in_the_callers_trace(exporter):
    app = Starlette(routes=[Route("/items/{id}", _shop)], middleware=[Middleware(OpenTelemetryMiddleware)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        response = await client.get("/items/1", headers={"traceparent": TRACEPARENT})
    assert response.status_code == 200
    assert span_tree(exporter.spans) == "GET /items/{id} <- remote\n  native\n    otel"
    server = exporter.spans[-1]
    assert server.kind == "server"
    assert server.attributes["http.response.status_code"] == 200
    assert server.context.trace_id == TRACEPARENT.split("-")[1]
    assert server.instrumentation.name == "starlette"


@pytest.mark.parametrize("variable", ["OTEL_PYTHON_CONTEXT", "OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PROPAGATORS"])
def test_the_entry_points_load(variable):
    program = (
        "from opentelemetry import context, propagate, trace\n"
        "with trace.get_tracer('x').start_as_current_span('a') as span:\n"
        "    assert trace.get_current_span() is span\n"
        "    found = [context._RUNTIME_CONTEXT, trace.get_tracer_provider(), propagate.get_global_textmap()]\n"
        "found[2] = getattr(found[2], '_propagators', found[2:])[0]  # OpenTelemetry makes a composite of those named\n"
        "print([type(each).__module__.split('.')[0] for each in found])\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={"PATH": "", variable: "tracekit"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stderr == ""
    kinds = {
        "OTEL_PYTHON_CONTEXT": "['tracekit', 'opentelemetry', 'opentelemetry']",
        "OTEL_PYTHON_TRACER_PROVIDER": "['tracekit', 'tracekit', 'tracekit']",
        "OTEL_PROPAGATORS": "['opentelemetry', 'opentelemetry', 'tracekit']",
    }
    assert run.stdout.strip() == kinds[variable]


def test_tracekit_imports_nothing_of_opentelemetry():
    program = "import sys, tracekit; tracekit.configure(); print([m for m in sys.modules if m.startswith('opentel')])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["spans.OtelSpan", "tracer.OtelTracer", "tracer.CurrentSpan", "runtime.Ambient"])
def test_an_object_made_without_init_raises_and_does_not_crash(kind):
    import importlib

    module, _, name = kind.partition(".")
    cls = getattr(importlib.import_module(f"tracekit.bridges._opentelemetry.{module}"), name)
    bare = cls.__new__(cls)
    reached = 0
    for attribute in vars(cls):
        if attribute.startswith("__") and attribute not in {"__class__", "__enter__", "__exit__"}:
            continue
        for arguments in ((), ("x",), (None, None, None)):
            with contextlib.suppress(Exception):
                found = getattr(bare, attribute)
                reached += 1
                if callable(found):
                    found(*arguments)
    assert reached or kind == "runtime.Ambient"


class Hostile:
    """An object whose conversions raise an exception that ``except Exception`` does not catch."""

    def __str__(self):
        raise KeyboardInterrupt

    __int__ = __index__ = __float__ = __repr__ = __str__


class HostileText(str):
    def __str__(self):
        raise ValueError


def test_conversions_that_raise_do_not_reach_the_program(tracer):
    for name in (Hostile(), HostileText("a")):
        assert trace.get_tracer(name).start_span("a") is not None
        with tracer.start_as_current_span(name, start_time=Hostile()) as span:
            span.update_name(name)
            span.add_event(name, timestamp=Hostile())
            span.record_exception(ValueError(), timestamp=Hostile())
            span.end(Hostile())
    assert tracer.start_span(Hostile()).name == "Hostile"


def test_a_span_made_without_init_may_be_asked_for_its_class():
    bare = bridge.OtelSpan.__new__(bridge.OtelSpan)
    assert not isinstance(bare, int)
    assert isinstance(bare, bridge.OtelSpan)
