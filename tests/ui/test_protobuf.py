"""The reader of OTLP's protobuf: the rows that the SQLite exporter writes, from bytes that strangers send."""

import importlib
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import tracekit
from tracekit import Link, SpanContext
from tracekit.exporters.otlp import encode_spans, encode_spans_as_json
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader
from tracekit.testing import MemoryExporter
from tracekit.ui import json, protobuf
from tracekit.ui.rows import Malformed

from ..tools.forms import FORMS

STORED_S = 1_700_000_000
REMOTE = SpanContext("a" * 32, "b" * 16, 1, is_remote=True)


@pytest.fixture
def spans():
    """Spans of every kind: parents, attributes of each type, events, links, statuses."""
    memory = MemoryExporter()
    tracekit.configure(service="shöp", exporter=memory, resource={"host.name": "h1", "n": 3})
    values = {
        "text": 'say "hö"\n',
        "n": -5,
        "big": 2**63 - 1,
        "yes": True,
        "half": 0.5,
        "octets": b"\0\xff",
        "list": (1, 2),
    }
    with tracekit.span(
        "far", parent=REMOTE, kind="server", attributes=values, links=[Link(REMOTE, {"why": "x"})]
    ) as far:
        far.add_event("paid", {"sum": 2.5})
        far.add_event("bare")
        with tracekit.span("near", kind="client") as near:
            near.set_status("error", "no")
        with tracekit.span("ended") as ended:
            ended.set_status("ok")
        with tracekit.span("stopped") as stopped:
            stopped.set_status("cancelled", "TimeoutError")
        with tracekit.span("numbers", attributes={"nan": math.nan, "more": math.inf, "less": -math.inf, "e": 1e300}):
            pass
    yield memory.spans
    tracekit.shutdown(60)


def stored(path, write):
    exporter = SQLiteExporter(path)
    write(exporter)
    exporter.shutdown()
    with SQLiteReader(path) as reader:
        codes = reader._connection.execute("SELECT terms, bits FROM spans ORDER BY span_id").fetchall()
        return reader.spans("a" * 32), codes


@pytest.mark.parametrize(
    ("encode", "read"), [(encode_spans, protobuf.read_request), (encode_spans_as_json, json.read_request)]
)
def test_received_spans_are_stored_like_exported_ones(tmp_path, spans, encode, read):
    rows, rejected, size = read(bytes(encode(spans)), STORED_S)
    assert (len(rows), rejected) == (5, 0)
    assert size >= sum(len(str(cell).encode()) for row in rows for cell in row)
    received = stored(tmp_path / "received.db", lambda exporter: exporter.store(rows, size))
    exported = stored(tmp_path / "exported.db", lambda exporter: exporter.export(spans))
    assert len(exported[0]) == 5
    assert received == exported


def request(**fields):
    message = ExportTraceServiceRequest()
    span = message.resource_spans.add().scope_spans.add().spans.add(trace_id=b"t" * 16, span_id=b"s" * 8)
    for name, value in fields.items():
        setattr(span, name, value)
    return message, span


def rows_of(message):
    return protobuf.read_request(message.SerializeToString(), STORED_S)


def test_a_resource_that_follows_its_spans_is_theirs():
    message, _ = request(name="job")
    spans_first = message.resource_spans[0].SerializeToString()
    attribute = b"\n\x0cservice.name\x12\x06\n\x04late"
    resource = b"\x0a" + bytes([len(attribute)]) + attribute
    part = spans_first + b"\x0a" + bytes([len(resource)]) + resource
    rows, _, _ = protobuf.read_request(b"\x0a" + bytes([len(part)]) + part, STORED_S)
    assert rows[0][5] == "late"


@pytest.mark.parametrize(
    "field", [{"trace_id": b""}, {"trace_id": b"t" * 15}, {"trace_id": bytes(16)}, {"span_id": bytes(8)}]
)
def test_a_span_without_valid_ids_is_rejected_alone(field):
    message, _ = request(**field)
    message.resource_spans[0].scope_spans[0].spans.add(trace_id=b"t" * 16, span_id=b"u" * 8)
    rows, rejected, _ = rows_of(message)
    assert ([row[2] for row in rows], rejected) == (["75" * 8], 1)


def test_values_out_of_range_are_bounded():
    message, _ = request(
        start_time_unix_nano=2**64 - 1, kind=77, name="n" * 5000 + "\0", dropped_events_count=2**32 - 1
    )
    (row,) = rows_of(message)[0]
    cells = dict(zip(("stored_s", *tracekit.exporters.sqlite.StoredSpan._fields, "terms", "bits"), row, strict=True))
    assert (cells["start_ns"], cells["kind"], len(cells["name"])) == (2**63 - 1, "internal", 4096)
    assert cells["dropped_events"] == 2**32 - 1


def nested(depth):
    message, span = request()
    value = span.attributes.add(key="deep").value
    for _ in range(depth):
        value = value.array_value.values.add()
    value.string_value = "x"
    return message


def test_nested_values_are_read_to_a_depth():
    assert rows_of(nested(32))[0][0][15] == '{"deep":' + "[" * 32 + '"x"' + "]" * 32 + "}"
    with pytest.raises(Malformed, match="nested deeper than 32"):
        rows_of(nested(33))


@pytest.mark.parametrize("package", [form.package for form in FORMS.values()])
def test_attributes_and_events_of_a_request_are_bounded(package, monkeypatch):
    module = importlib.import_module(f"{package}.ui.protobuf")
    message, span = request()
    message.resource_spans[0].resource.attributes.add(key="a")
    span.attributes.add(key="b").value.kvlist_value.values.add(key="c")
    span.events.add().attributes.add(key="d")
    octets = message.SerializeToString()
    monkeypatch.setattr(module, "MAX_PARTS", 5)
    assert len(module.read_request(octets, STORED_S)[0]) == 1
    monkeypatch.setattr(module, "MAX_PARTS", 4)
    with pytest.raises(ValueError, match="more than 4 attributes and events"):
        module.read_request(octets, STORED_S)


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"\x0a\x05", "longer than its message"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "longer than its message"),
        (b"\x80" * 11, "cut off or too long"),
        (b"\x80", "cut off or too long"),
        (b"\x0b", "bad wire type 3"),
        (b"\x00\x00", "bad field number"),
        (b"\x0a\x04\x12\x02\x12\x09", "longer than its message"),
        (b"\x0d\x01", "cut off"),
    ],
)
def test_malformed_octets_are_rejected(octets, why):
    with pytest.raises(Malformed, match=why):
        protobuf.read_request(octets, STORED_S)


def test_unknown_fields_are_skipped():
    message, _ = request(name="job")
    unknown = b"\xf8\x07\x01\xfa\x07\x02hi\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4)
    assert protobuf.read_request(unknown + message.SerializeToString() + unknown, STORED_S)[0][0][6] == "job"


def test_attributes_that_spans_repeat_are_read_once_and_equal():
    message, span = request(name="job")
    span.attributes.add(key="k").value.string_value = "v"
    span.attributes.add(key="long").value.string_value = "x" * 300
    for number in range(1100):  # more than a reader remembers
        other = message.resource_spans[0].scope_spans[0].spans.add(trace_id=b"t" * 16, span_id=b"%08d" % number)
        other.attributes.add(key="k").value.string_value = "v"
        other.attributes.add(key="number").value.int_value = number
    for read in READERS:
        rows, _, _ = read(message.SerializeToString(), STORED_S)
        assert rows[0][15] == '{"k":"v","long":"' + "x" * 300 + '"}'
        assert [row[15] for row in rows[1:]] == [f'{{"k":"v","number":{number}}}' for number in range(1100)]


READERS = [importlib.import_module(f"{form.package}.ui.protobuf").read_request for form in FORMS.values()]


def result(read, octets):
    try:
        return read(octets, STORED_S)
    except ValueError as error:
        return type(error).__name__, str(error)


def full_request():
    message, span = request(name="jöb", start_time_unix_nano=5, end_time_unix_nano=9, trace_state="a=1", flags=0x301)
    span.attributes.add(key="k").value.kvlist_value.values.add(key="in").value.double_value = 1.5
    span.attributes.add(key="n").value.int_value = -1
    span.events.add(name="e", time_unix_nano=7).attributes.add(key="b").value.bytes_value = b"\0"
    span.links.add(trace_id=b"l" * 16, span_id=b"m" * 8)
    span.status.code = 2
    message.resource_spans[0].resource.attributes.add(key="service.name").value.string_value = "shop"
    return message.SerializeToString()


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_octets_are_rows_or_malformed_in_both_forms(data):
    octets = bytearray(full_request())
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(octets) - 1))
        octets[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    outcomes = [result(read, bytes(octets)) for read in READERS]
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert len(outcomes[0]) == 3 or outcomes[0][0] == "Malformed"
