"""Several formats at once: what is found first, what is added up, what becomes a link, and what the environment chooses."""

from __future__ import annotations

import logging
from collections import UserDict

import pytest

import tracekit
from tracekit import SpanContext, _propagation
from tracekit._core import misuse
from tracekit.testing import MemoryExporter, span_tree
from tracekit.wire import b3, datadog, jaeger, xray
from tracekit.wire.w3c import BAGGAGE, TRACECONTEXT

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER = "80f198ee56343ba864fe8b2a57d3eff7"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def several():
    tracekit.configure(formats=[TRACECONTEXT, BAGGAGE, b3.SINGLE, jaeger.JAEGER])


def extract_all(**fields):
    return tracekit.extract_all({name.replace("_", "-"): value for name, value in fields.items()})


def test_no_field_of_any_format_is_no_context(several):
    assert extract_all(host="shop.example") == (None, ())
    assert tracekit.extract([]) is None


def test_formats_that_agree_on_the_trace_add_up(several):
    context, links = extract_all(traceparent=PARENT, b3=f"{TRACE}-e457b5a2e4d86bd1-d", baggage="tenant=acme")
    assert (context.trace_id, context.span_id) == (TRACE, SPAN), "the first wins"
    assert context.extra == {"b3": "d"}
    assert context.labels == {"tenant": "acme"}
    assert links == ()


def test_a_format_that_names_another_trace_becomes_a_link(several):
    context, links = extract_all(traceparent=PARENT, b3=f"{OTHER}-e457b5a2e4d86bd1-1")
    assert context.trace_id == TRACE
    assert [link.trace_id for link in links] == [OTHER]
    assert context.extra == {}


def test_two_formats_that_agree_on_another_trace_are_one_link(several):
    uber = f"{OTHER}:e457b5a2e4d86bd1:0:1"
    _, links = extract_all(traceparent=PARENT, b3=f"{OTHER}-e457b5a2e4d86bd1-1", uber_trace_id=uber)
    assert len(links) == 1


@pytest.mark.parametrize("formats", [None, [b3.SINGLE], [b3.SINGLE, TRACECONTEXT, jaeger.JAEGER]])
def test_extract_all_takes_the_carriers_that_extract_takes(formats):
    tracekit.configure(formats=formats)
    pairs = [("traceparent", PARENT), ("b3", f"{TRACE}-{SPAN}-1"), ("accept", "*/*")]
    makers = [dict, list, tuple, iter, lambda pairs: (pair for pair in pairs), lambda pairs: dict(pairs).items()]
    makers.append(lambda pairs: [(name.encode(), value.encode()) for name, value in pairs])
    for make in makers:
        assert tracekit.extract_all(make(pairs)) == (tracekit.extract(make(pairs)), ())
    for carrier in (None, 5, "traceparent", b"b3", object()):
        for function in (tracekit.extract, tracekit.extract_all):
            with pytest.raises(TypeError, match=r"^carrier must be a mapping or an iterable of pairs, not "):
                function(carrier)


class _Unread:
    """As a proxy of a request where there is none."""

    def __getattr__(self, name):
        raise RuntimeError("no request")


class _Failing(UserDict):
    def items(self):
        raise ConnectionError("gone")


class _Order:
    items = ("rope", "lantern")


def _failing_pairs():
    yield "traceparent", PARENT
    raise ConnectionError("gone")


@pytest.mark.parametrize("formats", [None, [b3.SINGLE], [b3.SINGLE, TRACECONTEXT, jaeger.JAEGER]])
@pytest.mark.parametrize("function", [tracekit.extract, tracekit.extract_all])
@pytest.mark.parametrize("make", [_Unread, lambda: _Failing(traceparent=PARENT), _Order, _failing_pairs, object])
def test_a_carrier_that_cannot_be_read_is_reported_and_starts_a_new_trace(monkeypatch, caplog, formats, function, make):
    tracekit.configure(formats=formats)
    monkeypatch.setattr(misuse, "_seen", set())
    monkeypatch.setattr(misuse, "_strict", False)
    with caplog.at_level(logging.WARNING, "tracekit"):
        assert function(make()) in (None, (None, ()))
    assert [message.startswith(f"{__file__}:") for message in caplog.messages] == [True]


class _Broken:
    name = "broken"
    fields = ("x-broken",)

    def read(self, carrier):
        raise KeyError("read")

    def write(self, context, carrier):
        raise KeyError("write")


class _Own:
    """As docs/wire.md shows it."""

    name = "shop"
    fields = ("x-shop-trace",)

    def read(self, carrier):
        text = carrier.get("x-shop-trace")
        return None if text is None else SpanContext(*text.split("/"), is_remote=True, deferred=True)

    def write(self, context, carrier):
        carrier["x-shop-trace"] = f"{context.trace_id}/{context.span_id}"


@pytest.mark.parametrize("others", [(), (TRACECONTEXT,)], ids=["alone", "beside another"])
@pytest.mark.parametrize(
    "carrier",
    [
        {"X-Shop-Trace": f"{OTHER}/{SPAN}"},
        {"HTTP_X_SHOP_TRACE": f"{OTHER}/{SPAN}"},
        [("X-Shop-Trace", f"{OTHER}/{SPAN}")],
        [(b"x-shop-trace", f"{OTHER}/{SPAN}".encode())],
        (("x-shop-trace", f"{OTHER}/{SPAN}"),),
    ],
    ids=["dict", "environ", "pairs", "octets", "iterable"],
)
def test_a_format_of_the_programs_own_reads_every_carrier(others, carrier):
    tracekit.configure(formats=[*others, _Own()], environ={})
    context = tracekit.extract(carrier)
    assert (context.trace_id, context.span_id) == (OTHER, SPAN)


@pytest.mark.parametrize("others", [(), (TRACECONTEXT,)], ids=["alone", "beside another"])
def test_a_format_of_the_programs_own_writes_to_pairs(others):
    tracekit.configure(formats=[*others, _Own()], environ={})
    context = SpanContext(OTHER, SPAN, 1)
    assert ("x-shop-trace", f"{OTHER}/{SPAN}") in tracekit.inject([("X-Shop-Trace", "0/0")], context)
    octets = tracekit.inject([(b"x-shop-trace", b"0/0")], context)
    assert [value for name, value in octets if name == b"x-shop-trace"] == [f"{OTHER}/{SPAN}".encode()]
    assert tracekit.inject({}, context)["x-shop-trace"] == f"{OTHER}/{SPAN}"


def test_a_format_of_the_programs_own_that_raises_costs_itself_alone(monkeypatch, caplog):
    tracekit.configure(formats=[_Broken(), TRACECONTEXT, b3.SINGLE], environ={})
    monkeypatch.setattr(misuse, "_seen", set())
    monkeypatch.setattr(misuse, "_strict", False)
    with caplog.at_level(logging.WARNING, "tracekit"):
        context, links = tracekit.extract_all({"x-broken": "1", "traceparent": PARENT, "b3": f"{OTHER}-{SPAN}-1"})
        assert tracekit.inject({}, context) == {"traceparent": PARENT, "b3": f"{TRACE}-{SPAN}-1"}
    assert ([link.trace_id for link in links], context.trace_id) == ([OTHER], TRACE)
    assert [("'read'" in message, "'write'" in message) for message in caplog.messages] == [
        (True, False),
        (False, True),
    ]


def test_middleware_of_others_links_to_the_other_traces(several):
    memory = MemoryExporter()
    tracekit.configure(exporter=memory, formats=[TRACECONTEXT, b3.SINGLE])
    headers = {"traceparent": PARENT, "b3": f"{OTHER}-e457b5a2e4d86bd1-1"}
    parent, others = tracekit.extract_all(headers)
    with tracekit.span("request", kind="server", parent=parent or tracekit.ROOT, links=others):
        pass
    (span,) = memory.spans
    assert span.context.trace_id == TRACE
    assert [link.context.trace_id for link in span.links] == [OTHER]


def test_a_bad_format_does_not_cost_the_good_one(several):
    context, _ = extract_all(traceparent="garbage", b3=f"{OTHER}-e457b5a2e4d86bd1-1")
    assert context.trace_id == OTHER


def test_a_decision_without_ids_decides_for_ids_without_a_decision(several):
    context, _ = extract_all(b3="0", uber_trace_id=f"{OTHER}:e457b5a2e4d86bd1:0:1")
    assert (context.trace_id, context.sampled, context.deferred) == (OTHER, False, False)


@pytest.mark.parametrize("flags", ["00", "01"])
def test_the_decision_that_wins_goes_out_in_every_format(flags):
    formats = [TRACECONTEXT, b3.SINGLE, b3.MULTI, jaeger.JAEGER, datadog.DATADOG, xray.XRAY]
    tracekit.configure(formats=formats)
    context, links = extract_all(
        traceparent=PARENT[:-2] + flags,
        b3=f"{TRACE}-{SPAN}-d",
        x_b3_flags="1",
        uber_trace_id=f"{TRACE}:{SPAN}:0:3",
        x_datadog_trace_id=str(int(TRACE[16:], 16)),
        x_datadog_tags=f"_dd.p.tid={TRACE[:16]}",
        x_datadog_sampling_priority="2",
        x_amzn_trace_id=f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1",
    )
    assert links == ()
    sent = tracekit.inject({}, context)
    for format in formats:
        found = format.read(sent)
        assert (found.id, found.sampled, found.deferred) == (context.id, flags == "01", False)


def test_the_order_of_the_list_is_the_order_of_extraction():
    tracekit.configure(formats=[b3.SINGLE, TRACECONTEXT])
    context, links = extract_all(traceparent=PARENT, b3=f"{OTHER}-e457b5a2e4d86bd1-1")
    assert context.trace_id == OTHER
    assert [link.trace_id for link in links] == [TRACE]


def test_every_format_is_written_and_reads_back(several):
    with tracekit.use_context(extract_all(b3=f"{OTHER}-e457b5a2e4d86bd1-d", baggage="tenant=acme")[0]):
        headers = tracekit.inject({})
    assert headers["b3"] == f"{OTHER}-e457b5a2e4d86bd1-d"
    assert headers["traceparent"] == f"00-{OTHER}-e457b5a2e4d86bd1-01"
    assert headers["baggage"] == headers["baggage"] == "tenant=acme"
    assert set(headers) >= {"uber-trace-id", "uberctx-tenant"}
    assert extract_all(**headers)[1] == ()


def test_what_a_format_said_survives_child_spans_and_hand_offs():
    tracekit.configure(exporter=MemoryExporter(), formats=[b3.SINGLE])
    with (
        tracekit.span("server", parent=tracekit.extract({"b3": f"{TRACE}-{SPAN}-d"})),
        tracekit.span("client") as client,
    ):
        assert tracekit.wrap(tracekit.inject)({})["b3"] == f"{TRACE}-{client.context.span_id}-d"


def test_a_deferred_decision_stays_deferred_where_nothing_records():
    tracekit.configure(formats=[b3.SINGLE])
    with tracekit.span("relay", parent=tracekit.extract({"b3": f"{TRACE}-{SPAN}"})) as relay:
        assert relay.context.deferred
        assert tracekit.inject({})["b3"] == f"{TRACE}-{relay.context.span_id}"


def test_a_deferred_decision_is_made_where_something_records():
    tracekit.configure(formats=[b3.SINGLE], exporter=MemoryExporter())
    with tracekit.span("server", parent=tracekit.extract({"b3": f"{TRACE}-{SPAN}"})) as server:
        assert server.is_recording
        assert tracekit.inject({})["b3"].endswith("-1")


@pytest.mark.parametrize(
    "formats", [[TRACECONTEXT, BAGGAGE], [TRACECONTEXT], [TRACECONTEXT, BAGGAGE, b3.SINGLE]], ids=len
)
@pytest.mark.parametrize("is_bytes", [False, True], ids=["text", "bytes"])
def test_more_than_64_kib_of_fields_are_not_parsed(formats, is_bytes):
    tracekit.configure(formats=formats)

    def extracted(*pairs):
        return tracekit.extract([(name.encode(), text.encode()) for name, text in pairs] if is_bytes else list(pairs))

    parent, many = ("traceparent", PARENT), [("tracestate", f"a{number}={'x' * 8000}") for number in range(9)]
    assert extracted(parent, *many).trace_id == TRACE
    assert extracted(*many[:8], parent).trace_id == TRACE, "64,000 characters and a few"
    assert extracted(*many, parent) is None


@pytest.mark.parametrize(
    "formats", [[TRACECONTEXT, BAGGAGE], [TRACECONTEXT], [TRACECONTEXT, BAGGAGE, b3.SINGLE]], ids=len
)
def test_one_field_that_is_too_long_costs_itself_alone(formats):
    tracekit.configure(formats=formats)
    for huge in ({"baggage": "a=" + "x" * 1048576}, {b"tracestate": b"a=" + b"x" * 1048576}):
        context = tracekit.extract({**huge, "traceparent": PARENT})
        assert (context.trace_id, context.labels, str(context.state)) == (TRACE, {}, "")


def test_the_middleware_links_to_the_trace_that_lost(exporter):
    from tracekit.integrations.asgi import TraceMiddleware

    tracekit.configure(exporter=exporter, formats=[TRACECONTEXT, b3.SINGLE])

    async def app(scope, receive, send):
        assert len(tracekit.current_span().links) == 1

    headers = [(b"traceparent", PARENT.encode()), (b"b3", f"{OTHER}-e457b5a2e4d86bd1-1".encode())]
    run_app(TraceMiddleware(app), headers=headers)
    assert span_tree(exporter).startswith("GET [error] <- remote ~ e457b5a2e4d86bd1")


@pytest.mark.parametrize(
    ("path", "is_child"),
    [
        ("/internal/x", True),
        ("/internal/public/x", False),
        ("/internal/public", False),
        ("/internal/publican", True),
        ("/x", False),
        ("/internal", False),
        ("/partner", True),
        ("/partner/x", True),
        ("/partners", False),
        ("", False),
    ],
)
def test_trust_is_given_by_the_longest_prefix_of_the_path(exporter, path, is_child):
    from tracekit.integrations.asgi import TraceMiddleware

    async def app(scope, receive, send): ...

    routes = {"/internal/": "continue", "/internal/public": "ignore", "/partner": "continue"}
    middleware = TraceMiddleware(app, trust="restart", routes=routes)
    run_app(middleware, path=path, headers=[(b"traceparent", PARENT.encode())])
    (span,) = exporter.spans
    assert (span.context.trace_id == TRACE) == is_child


@pytest.mark.parametrize(("routes", "error"), [([], TypeError), ({1: "link"}, TypeError), ({"/": "maybe"}, ValueError)])
def test_wrong_routes_are_refused(routes, error):
    from tracekit.integrations.asgi import TraceMiddleware

    with pytest.raises(error):
        TraceMiddleware(print, routes=routes or "/")


def run_app(app, *, path="/", headers=()):
    scope = {"type": "http", "method": "GET", "path": path, "headers": list(headers)}

    async def never(*_):
        raise AssertionError

    with pytest.raises(StopIteration):
        app(scope, never, never).send(None)


def test_the_environment_names_the_formats(monkeypatch):
    monkeypatch.setenv("OTEL_PROPAGATORS", " b3 , TraceContext,b3")
    tracekit.configure()
    assert list(_propagation.formats()) == [b3.SINGLE, TRACECONTEXT]


def test_an_argument_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("OTEL_PROPAGATORS", "b3")
    tracekit.configure(formats=[BAGGAGE])
    assert list(_propagation.formats()) == [BAGGAGE]


def test_none_names_no_format(monkeypatch):
    monkeypatch.setenv("OTEL_PROPAGATORS", "none")
    tracekit.configure()
    with tracekit.span("work"):
        assert tracekit.inject({}) == {}


def test_every_name_of_the_environment_is_a_format_of_that_name(caplog):
    found, unknown = _propagation.formats_named(",".join(_propagation._NAMES))
    assert [format.name for format in found] == list(_propagation._NAMES)
    assert unknown == []


def test_an_unknown_name_is_one_warning_that_says_what_is_used(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_PROPAGATORS", "tracecontext,zipkin\n,b9")
    with caplog.at_level(logging.WARNING):
        tracekit.configure()
    (record,) = caplog.records
    assert record.getMessage() == (
        "OTEL_PROPAGATORS names 'zipkin', 'b9', which tracekit does not know; the others are used"
    )
    assert list(_propagation.formats()) == [TRACECONTEXT]


@pytest.mark.parametrize(
    ("names", "formats"), [("tracekit", [TRACECONTEXT, BAGGAGE]), ("tracekit,none", []), ("Tracekit, b3", [b3.SINGLE])]
)
def test_the_name_of_the_propagator_for_opentelemetrys_api_is_no_format(names, formats, caplog):
    tracekit.configure(environ={"OTEL_PROPAGATORS": names})
    assert list(_propagation.formats()) == formats
    assert not caplog.records


def test_where_all_names_are_unknown_the_default_is_used(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_PROPAGATORS", "zipkin")
    tracekit.configure()
    assert [record.getMessage() for record in caplog.records] == [
        "OTEL_PROPAGATORS names 'zipkin', which tracekit does not know; tracecontext,baggage is used"
    ]
    assert list(_propagation.formats()) == [TRACECONTEXT, BAGGAGE]
