"""The OTLP encoding of both implementations, against the official schema and OpenTelemetry's encoder."""

from __future__ import annotations

import json
import math
import struct

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_with_opentelemetry
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as OtelEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link as OtelLink
from opentelemetry.trace import SpanContext as OtelContext
from opentelemetry.trace import SpanKind, StatusCode, TraceFlags
from opentelemetry.trace import Status as OtelStatus
from opentelemetry.trace.span import TraceState as OtelState

import tracekit
import tracekit.testing
from tracekit import Limits, Link, TraceState
from tracekit._core.otlp import PORTION
from tracekit._version import SCHEMA_URL
from tracekit.exporters.otlp import encode_spans, encode_spans_as_json
from tracekit.testing import FakeClock

from ..tools.vectors import TWINS
from .collector import parse_json

NOW = 1_700_000_000_000_000_000
REMOTE = tracekit.SpanContext("a" * 32, "b" * 16, 3, state=TraceState({"x": "1", "y": "2"}), is_remote=True)
LOCAL = tracekit.SpanContext("c" * 32, "d" * 16, 0)

many = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@pytest.fixture(autouse=True)
def _recording(exporter):
    with FakeClock(NOW):
        yield


def decoded(spans):
    """The spans of the request that encodes *spans*, which equals the output of protobuf's encoder."""
    octets = encode_spans(spans)
    request = ExportTraceServiceRequest.FromString(octets)
    assert request.SerializeToString() == octets
    assert str(parse_json(encode_spans_as_json(spans))) == str(request)  # as text: a NaN is not equal to itself
    return request.resource_spans[0].scope_spans[0].spans


def plain(value):
    """The Python value of an ``AnyValue``."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return tuple(plain(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return mapping(value.kvlist_value.values)
    return getattr(value, kind)


def mapping(attributes):
    return {attribute.key: plain(attribute.value) for attribute in attributes}


def finished(name="job", **options):
    span = tracekit.span(name, **options)
    span.end()
    return span


def test_every_field_of_a_span_arrives():
    with tracekit.use_context(REMOTE), FakeClock(NOW) as clock:
        span = tracekit.span("checkout", kind="server", attributes={"a": 1}, links=[Link(LOCAL, {"why": "x"}), REMOTE])
        clock.tick(1e-6)
        span.add_event("paid", {"sum": 2.5})
        span.add_event("bare")
        span.set_status("error", "no")
        clock.tick(2e-6)
        span.end()
    (found,) = decoded([span])
    assert (found.trace_id.hex(), found.span_id.hex(), found.parent_span_id.hex()) == (*ids(span.context), "b" * 16)
    assert (found.trace_state, found.name, found.kind) == ("x=1,y=2", "checkout", 2)
    assert (found.start_time_unix_nano, found.end_time_unix_nano) == (NOW, NOW + 3000)
    assert mapping(found.attributes) == {"a": 1}
    assert [(event.name, event.time_unix_nano, mapping(event.attributes)) for event in found.events] == [
        ("paid", NOW + 1000, {"sum": 2.5}),
        ("bare", NOW + 1000, {}),
    ]
    first, second = found.links
    assert (first.trace_id.hex(), first.span_id.hex(), first.flags) == (*ids(LOCAL), 0x100)
    assert mapping(first.attributes) == {"why": "x"}
    assert (second.trace_id.hex(), second.trace_state, second.flags) == ("a" * 32, "x=1,y=2", 0x303)
    assert (found.status.code, found.status.message) == (2, "no")
    assert found.flags == 0x303


def ids(context):
    return context.trace_id, context.span_id


@pytest.mark.parametrize(("kind", "number"), [(kind, at + 1) for at, kind in enumerate(tracekit._core.records.KINDS)])
def test_kinds_are_numbered_as_in_otlp(kind, number):
    (found,) = decoded([finished(kind=kind)])
    assert found.kind == number


def test_flags_distinguish_local_remote_and_missing_parents():
    with tracekit.span("root") as root, tracekit.span("child") as child:
        pass
    with tracekit.span("far", parent=REMOTE) as far:
        pass
    assert [found.flags & 0x300 for found in decoded([root, child, far])] == [0x100, 0x100, 0x300]
    assert [found.parent_span_id.hex() for found in decoded([root, child])] == ["", root.context.span_id]


@pytest.mark.parametrize(
    ("code", "said", "number", "message", "attributes"),
    [
        ("unset", "", 0, "", {}),
        ("ok", "fine", 1, "", {}),
        ("error", "", 2, "", {}),
        ("error", "späť", 2, "späť", {}),
        ("cancelled", "TimeoutError", 0, "", {"tracekit.cancelled": "TimeoutError"}),
        ("cancelled", "", 0, "", {"tracekit.cancelled": ""}),
    ],
)
def test_a_cancelled_status_becomes_an_attribute(code, said, number, message, attributes):
    span = tracekit.span("job")
    span.set_status(code, said)
    span.end()
    (found,) = decoded([span])
    assert (found.status.code, found.status.message, mapping(found.attributes)) == (number, message, attributes)


VALUES = [
    ("", ""),
    ("plain", "plain"),
    ("grüße 🎉", "grüße 🎉"),
    ("nul\0nul", "nul\0nul"),
    ("lone \ud800 surrogate", "lone � surrogate"),
    ("x" * (1 << 20), "x" * (1 << 20)),
    (True, True),
    (False, False),
    (0, 0),
    (-1, -1),
    ((1 << 63) - 1, (1 << 63) - 1),
    (-(1 << 63), -(1 << 63)),
    (1 << 63, "0x8000000000000000"),
    (-(1 << 63) - 1, "-0x8000000000000001"),
    (1 << 16384, "<int of 16385 bits>"),
    (0.0, 0.0),
    (-2.5, -2.5),
    (math.inf, math.inf),
    (-math.inf, -math.inf),
    (b"", b""),
    (b"\0\xff", b"\0\xff"),
    ([], ()),
    (["a", None, 1, 2.5, b"x", True], ("a", None, 1, 2.5, b"x", True)),
    ({}, {}),
    ({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": (1, None)}}),  # deeper than attributes go
    ({"grüße": "\udfff"}, {"grüße": "�"}),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=[ascii(expected)[:20] for _, expected in VALUES])
def test_attributes_of_every_type_arrive(value, expected):
    tracekit.configure(exporter=tracekit.testing.MemoryExporter(), limits=Limits(value_length=1 << 21))
    (found,) = decoded([finished(attributes={"key": value})])
    got = mapping(found.attributes)["key"]
    assert got == expected
    assert type(got) is type(expected)


def test_not_a_number_arrives():
    (found,) = decoded([finished(attributes={"key": math.nan})])
    assert math.isnan(found.attributes[0].value.double_value)
    assert b'"doubleValue":"NaN"' in encode_spans_as_json([finished(attributes={"key": math.nan})])
    (with_a_payload,) = struct.unpack("<d", bits := b"\x01\0\0\0\0\0\xf8\x7f")
    assert bits in encode_spans([finished(attributes={"key": with_a_payload})])


@pytest.mark.parametrize("value", [None, object(), {1, "a", object()}])
def test_values_that_no_attribute_holds_are_dropped_and_counted(value):
    span = finished(attributes={"key": value, "other": 1})
    (found,) = decoded([span])
    assert mapping(found.attributes)["other"] == 1
    assert found.dropped_attributes_count == span.dropped_attributes


def test_dropped_attributes_are_counted_where_they_were():
    limits = Limits(attributes=1)
    tracekit.configure(exporter=tracekit.testing.MemoryExporter(), limits=limits)
    given = {"a": 1, "b": 2, "c": 3}
    span = tracekit.span("job", attributes={"a": 1, "b": 2}, links=[tracekit.Link(REMOTE, given)])
    span.add_event("whole", {"a": 1})
    span.add_event("cut", given)
    span.end()
    (found,) = decoded([span])
    assert found.dropped_attributes_count == 1
    assert [event.dropped_attributes_count for event in found.events] == [0, 2]
    assert [link.dropped_attributes_count for link in found.links] == [2]
    (same,) = json.loads(encode_spans_as_json([span]))["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert same["droppedAttributesCount"] == 1
    assert [event.get("droppedAttributesCount") for event in same["events"]] == [None, 2]
    assert [link.get("droppedAttributesCount") for link in same["links"]] == [2]


def test_dropped_parts_are_counted():
    limits = Limits(attributes=1, events=1, links=1)
    tracekit.configure(exporter=tracekit.testing.MemoryExporter(), limits=limits)
    span = tracekit.span("job", attributes={"a": 1, "b": 2}, links=[REMOTE, LOCAL])
    for _ in range(200):
        span.add_event("tick")
    span.end()
    (found,) = decoded([span])
    assert (found.dropped_attributes_count, found.dropped_events_count, found.dropped_links_count) == (1, 199, 1)


@pytest.mark.parametrize("size", [0, 100, 127, 128, 129, 16383, 16384, 16385, 1 << 21, (1 << 21) + 1])
def test_sizes_take_as_many_octets_as_they_need(size):
    tracekit.configure(exporter=tracekit.testing.MemoryExporter(), limits=Limits(value_length=1 << 22))
    (found,) = decoded([finished("n" * size, attributes={"key": "x" * size, "n" * size: 1})])
    assert mapping(found.attributes) == {"key": "x" * size, "n" * size: 1}
    assert found.name == "n" * size


def test_the_spans_have_a_resource_and_a_scope():
    environ = {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "none"}
    exporter = tracekit.testing.MemoryExporter()
    tracekit.configure(service="shop", resource={"zone": 7}, exporter=exporter, environ=environ)
    octets = encode_spans([finished(), finished()])
    (group,) = ExportTraceServiceRequest.FromString(octets).resource_spans
    resource = mapping(group.resource.attributes)
    assert resource == {
        "service.name": "shop",
        "telemetry.sdk.name": "tracekit",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": tracekit.__version__,
        "zone": 7,
    }
    (scope,) = group.scope_spans
    assert (scope.scope.name, scope.scope.version, len(scope.spans)) == ("tracekit", tracekit.__version__, 2)


def test_spans_of_several_resources_are_grouped():
    spans = []
    for service in ("one", "two", "one"):
        tracekit.configure(service=service, exporter=tracekit.testing.MemoryExporter())
        spans += [finished(f"{service} {number}") for number in range(2)]
    spans = spans[::2] + spans[1::2]
    request = ExportTraceServiceRequest.FromString(encode_spans(spans))
    assert parse_json(encode_spans_as_json(spans)) == request
    names = [[span.name for span in group.scope_spans[0].spans] for group in request.resource_spans]
    assert names == [["one 0", "one 1"], ["two 0", "two 1"], ["one 0", "one 1"]]


@pytest.mark.parametrize("count", [99, 100, 2000])
def test_requests_of_any_number_of_spans_are_well_formed(count):
    assert [found.name for found in decoded([finished(str(number)) for number in range(count)])] == [
        str(number) for number in range(count)
    ]


def test_spans_of_many_tracers_that_alternate_are_grouped():
    spans = []
    for service in map(str, range(12)):
        tracekit.configure(service=service, exporter=tracekit.testing.MemoryExporter())
        spans.append([finished(f"{service} {number}") for number in range(3)])
    alternating = [span for same in zip(*spans, strict=True) for span in same]
    request = ExportTraceServiceRequest.FromString(encode_spans(alternating))
    names = [[span.name for span in group.scope_spans[0].spans] for group in request.resource_spans]
    assert names == [[f"{service} {number}" for number in range(3)] for service in range(12)]


@pytest.mark.parametrize("key", ["k", "k" * 63, "k" * 64, "k" * 65, "k" * 121, "k" * 200, "schlüssel"])
@pytest.mark.parametrize(
    "value", ["", "v", "v" * 56, "v" * 57, "v" * 58, "v" * 120, "v" * 121, "é", 0, -1, 127, 128, 1 << 62, True, 0.5]
)
def test_attributes_are_whole_at_the_limits_of_the_short_form(key, value):
    (found,) = decoded([finished(attributes={key: value})])
    assert mapping(found.attributes) == {key: value}


@pytest.mark.parametrize("size", range(41))
def test_texts_of_each_size_are_whole(size):
    text = "0123456789abcdefghijklmnopqrstuvwxyzABCDE"[:size]
    (found,) = decoded([finished(text, attributes={"key" + text: text})])
    assert (found.name, mapping(found.attributes)) == (text, {"key" + text: text})


@pytest.mark.parametrize(("count", "pauses"), [(PORTION, 0), (PORTION + 1, 1), (3 * PORTION, 2)])
def test_a_pause_comes_between_portions_and_changes_nothing(count, pauses):
    spans = [finished() for _ in range(count)]
    calls = []
    assert encode_spans(spans, lambda: calls.append(None)) == encode_spans(spans)
    assert len(calls) == pauses


def test_large_spans_make_a_portion_smaller():
    spans = [finished(attributes={f"key {number}": "x" * 1000 for number in range(100)}) for _ in range(10)]
    calls = []
    encode_spans(spans, lambda: calls.append(None))
    assert len(calls) == 4  # 100 KB a span, of 128 KiB


def test_a_pause_that_raises_ends_the_encoding():
    def pause():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_spans([finished() for _ in range(PORTION + 1)], pause)


def test_no_spans_are_an_empty_request():
    assert encode_spans([]) == b""
    assert encode_spans_as_json([]) == b'{"resourceSpans":[]}'


@pytest.mark.parametrize("spans", [[None], ["span"], [1]])
def test_only_spans_can_be_encoded(spans):
    with pytest.raises(TypeError, match="spans must hold spans, not "):
        encode_spans(spans)


def test_an_open_span_is_encoded_without_an_end():
    span = tracekit.span("open")
    assert decoded([span])[0].end_time_unix_nano == 0
    span.end()


def test_json_follows_the_otlp_mapping():
    span = finished(attributes={"n": 1, "b": b"\0"}, parent=REMOTE)
    text = encode_spans_as_json([span]).decode()
    assert f'"traceId":"{span.context.trace_id}"' in text
    assert f'"startTimeUnixNano":"{NOW}"' in text
    assert '"kind":1' in text
    assert '{"key":"n","value":{"intValue":"1"}}' in text
    assert '{"key":"b","value":{"bytesValue":"AA=="}}' in text


# ---- both implementations, and OpenTelemetry's encoder

TEXT = st.text(max_size=200) | st.text(st.characters(), max_size=10)
# One NaN: protobuf without an extension module reads every other as that one.
FLOATS = st.floats(allow_nan=False) | st.just(math.nan)
SCALARS = TEXT | st.booleans() | st.integers(-(1 << 70), 1 << 70) | FLOATS | st.binary(max_size=200)
ANY = st.recursive(
    SCALARS | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
ATTRIBUTES = st.dictionaries(TEXT, ANY, max_size=6)
LIFE = st.fixed_dictionaries(
    {
        "name": TEXT,
        "kind": st.sampled_from(tracekit._core.records.KINDS),
        "attributes": ATTRIBUTES,
        "events": st.lists(st.tuples(TEXT, ATTRIBUTES, st.integers(0, 1 << 63)), max_size=3),
        "links": st.lists(st.tuples(st.booleans(), ATTRIBUTES), max_size=3),
        "status": st.tuples(st.sampled_from(tracekit._core.records.STATUS_CODES), TEXT),
        "parent": st.sampled_from(["none", "remote", "local"]),
    }
)


def live(form, life):
    """A span of *form* that has had this life."""
    remote = form.SpanContext("a" * 32, "b" * 16, 3, state=TraceState({"x": "1"}), is_remote=True)
    local = form.SpanContext("c" * 32, "d" * 16, 1)
    parent = {"none": form.ROOT, "remote": remote, "local": local}[life["parent"]]
    links = [(remote if is_remote else local, attributes) for is_remote, attributes in life["links"]]
    span = form.span(life["name"], kind=life["kind"], attributes=life["attributes"], parent=parent)
    for context, attributes in links:
        span.add_link(context, attributes)
    for name, attributes, time_ns in life["events"]:
        span.add_event(name, attributes, time_ns=time_ns)
    span.set_status(*life["status"])
    span.end()
    return span


class Ones:
    def trace_id(self):
        return 1 << 70 | 1

    def span_id(self):
        return 1


@pytest.mark.skipif("compiled" not in TWINS, reason="the compiled form was not built")
@many
@given(st.lists(LIFE, max_size=3))
def test_both_forms_encode_the_same_lives_to_the_same_bytes(lives):
    made = []
    for form in TWINS.values():
        form.set_ids(Ones())
        form.set_clock(lambda: NOW)
        form.set_tracer(form.Tracer(recording=True, resource={"service.name": "x"}))
        try:
            made.append(form.encode_spans([live(form, life) for life in lives]))
        finally:
            form.set_ids(None)
            form.set_clock(None)
            form.set_tracer(form.Tracer())
    assert made[0] == made[1]


@many
@given(LIFE)
def test_protobuf_and_json_agree(life):
    span = live(TWINS[tracekit.IMPLEMENTATION], life)
    (found,) = decoded([span])
    assert found.name == span.name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def as_opentelemetry(span):
    """The same span as an OpenTelemetry span, for its encoder."""

    def context(ours):
        return OtelContext(
            int(ours.trace_id, 16),
            int(ours.span_id, 16),
            ours.is_remote,
            TraceFlags(ours.flags),
            OtelState(list(ours.state.items())),
        )

    codes = {"unset": StatusCode.UNSET, "ok": StatusCode.OK, "error": StatusCode.ERROR}
    return ReadableSpan(
        name=span.name,
        context=context(span.context),
        parent=None if span.parent is None else context(span.parent),
        resource=Resource(dict(span.resource), SCHEMA_URL),
        attributes=dict(span.attributes),
        events=[OtelEvent(name, dict(items), time_ns) for name, time_ns, items in span.events],
        links=[OtelLink(context(target), dict(items)) for target, items in span.links],
        kind=SpanKind[span.kind.upper()],
        status=OtelStatus(codes[span.status.code], span.status.description or None),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope("tracekit", tracekit.__version__),
    )


def test_opentelemetrys_encoder_produces_an_equal_message_in_no_fewer_bytes():
    attributes = {"a": "b", "n": 5, "t": True, "d": 0.5}
    parent = tracekit.span("parent", parent=REMOTE, kind="server", attributes=attributes)
    with parent, tracekit.span("child", links=[Link(LOCAL, {"x": 1})]) as child:
        child.add_event("event", {"k": ("a", "b")})
        child.set_status("error", "no")
    ours = encode_spans([child, parent])
    theirs = encode_with_opentelemetry([as_opentelemetry(child), as_opentelemetry(parent)])
    request = ExportTraceServiceRequest.FromString(ours)
    for group in request.resource_spans:
        for scope in group.scope_spans:
            for span in scope.spans:  # their encoder omits the flags that the specification requires
                span.flags &= ~0xFF
                for link in span.links:
                    link.flags &= ~0xFF
    for group in theirs.resource_spans:
        for span in group.scope_spans[0].spans:
            span.flags &= ~0xFF
            if not span.status.ByteSize():
                span.ClearField("status")  # their encoder writes an empty status
    assert sorted_attributes(request) == sorted_attributes(theirs)
    assert len(ours) <= len(theirs.SerializeToString())


def sorted_attributes(request):
    found = json_format.MessageToDict(request)
    for group in found["resourceSpans"]:
        group["resource"]["attributes"].sort(key=lambda attribute: attribute["key"])
        group["scopeSpans"].sort(key=str)
    return found
