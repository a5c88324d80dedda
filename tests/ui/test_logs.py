"""Log records: from every protocol into the store, from there to the pages and the command line."""

import importlib
import json
import logging

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub

import tracekit
from tracekit.cli.main import main
from tracekit.exporters.otlp import OTLPExporter
from tracekit.exporters.otlp_logs import OTLPLogHandler
from tracekit.exporters.sqlite import SQLiteExporter, SQLiteReader
from tracekit.ui import json as otlp_json
from tracekit.ui.rows import Malformed
from tracekit.ui.store import SpanStore

from ..tools.forms import FORMS
from .conftest import pairs, span

NAMES = ("stored_s", *tracekit.exporters.sqlite.StoredLog._fields)


def record(trace=1, id=1, body="hello", **more):
    """A log record in OTLP's JSON."""
    return {
        "timeUnixNano": "1700000000000000000",
        "severityNumber": 13,
        "severityText": "WARNING",
        "traceId": f"{trace:032x}",
        "spanId": f"{id:016x}",
        "body": {"stringValue": body},
        "attributes": pairs({"user": "ann"}),
        **more,
    }


def request(*records, service="shop"):
    scope = {"scope": {"name": "shop.cart"}, "logRecords": list(records)}
    return {"resourceLogs": [{"resource": {"attributes": pairs({"service.name": service})}, "scopeLogs": [scope]}]}


def octets(*records):
    return json.dumps(request(*records)).encode()


def message():
    """The same as ``request(record())`` in protobuf, and one record with every other kind of field."""
    found = ExportLogsServiceRequest()
    logs = found.resource_logs.add()
    logs.resource.attributes.add(key="service.name").value.string_value = "shop"
    scope = logs.scope_logs.add()
    scope.scope.name = "shop.cart"
    first = scope.log_records.add(
        time_unix_nano=1_700_000_000_000_000_000,
        severity_number=13,
        severity_text="WARNING",
        trace_id=bytes(15) + b"\1",
        span_id=bytes(7) + b"\1",
    )
    first.body.string_value = "hello"
    first.attributes.add(key="user").value.string_value = "ann"
    other = scope.log_records.add(
        observed_time_unix_nano=5, severity_number=9, dropped_attributes_count=3, event_name="paid", flags=1
    )
    other.body.kvlist_value.values.add(key="sum").value.double_value = 2.5
    return found


@pytest.fixture(params=[form.package for form in FORMS.values()])
def protobuf(request):
    return importlib.import_module(f"{request.param}.ui.protobuf")


def test_both_encodings_give_the_same_rows(protobuf):
    expected = octets(
        record(),
        {
            "observedTimeUnixNano": 5,
            "severityNumber": 9,
            "droppedAttributesCount": 3,
            "eventName": "paid",
            "body": {"kvlistValue": {"values": pairs({"sum": 2.5})}},
        },
    )
    rows, rejected, size = protobuf.read_logs(message().SerializeToString(), 7)
    assert rows == otlp_json.read_logs(expected, 7)[0]
    assert rejected == 0
    assert size >= sum(len(str(cell).encode()) for row in rows for cell in row)
    first, other = (dict(zip(NAMES, row, strict=True)) for row in rows)
    assert (first["level"], first["logger"], first["body"]) == ("WARNING", "shop.cart", '"hello"')
    assert first["attributes"] == '{"user":"ann"}'
    assert (other["trace_id"], other["span_id"], other["time_ns"], other["level"]) == ("", "", 5, "INFO")
    assert (other["event"], other["body"], other["dropped_attributes"]) == ("paid", '{"sum":2.5}', 3)


def test_a_record_that_is_cut_off_is_malformed(protobuf):
    whole = message().SerializeToString()
    for end in range(1, len(whole)):
        with pytest.raises(ValueError, match=r"cut off|longer than its message"):
            protobuf.read_logs(whole[:end], 7)


def test_records_of_a_request_are_bounded(protobuf, monkeypatch):
    for module, body in ((protobuf, message().SerializeToString()), (otlp_json, octets(record(), record()))):
        monkeypatch.setattr(module, "MAX_RECORDS", 2)
        assert len(module.read_logs(body, 1)[0]) == 2
        monkeypatch.setattr(module, "MAX_RECORDS", 1)
        with pytest.raises(ValueError, match="more than 1 log records"):
            module.read_logs(body, 1)


@pytest.mark.one_form
@pytest.mark.parametrize("field", [{"severityNumber": -1}, {"timeUnixNano": "x"}, {"body": []}, {"traceId": 5}])
def test_a_malformed_record_is_rejected(field):
    with pytest.raises(Malformed):
        otlp_json.read_logs(octets(record(**field)), 1)


@pytest.mark.one_form
@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_records_of_our_handler_are_shown_at_their_spans(ui, protocol, capsys):
    url = ui.viewer.urls["http"]
    exporter = OTLPExporter(f"{url}/v1/traces", environ={})
    tracekit.configure(service="shop", exporter=exporter, environ={})
    handler = OTLPLogHandler(f"{url}/v1/logs", protocol=protocol, environ={})
    logger = logging.getLogger("tests.shop")
    logger.addHandler(handler)
    try:
        with tracekit.span("checkout") as root:
            logger.warning("stock of %s is low", "tea")
            with tracekit.span("pay") as inner:
                logger.error("<b>no</b>", extra={"user": "ann"})
        logger.warning("outside")
    finally:
        logger.removeHandler(handler)
        handler.close()
    tracekit.shutdown(60)
    assert ui.store.counts().logs == 3
    trace_id = root.context.trace_id
    found = ui.get(f"/api/traces/{trace_id}/logs").json
    assert [(log["level"], log["body"], log["span_id"]) for log in found["logs"]] == [
        ("WARNING", "stock of tea is low", root.context.span_id),
        ("ERROR", "<b>no</b>", inner.context.span_id),
    ]
    assert found["is_cut"] is False
    trace = ui.get(f"/api/traces/{trace_id}").json
    assert (trace["logs"], [span["logs"] for span in trace["spans"]]) == (2, [1, 1])
    details = ui.get(f"/api/traces/{trace_id}/spans/{trace['spans'][1]['id']}").json
    (log,) = details["logs"]
    assert (log["logger"], log["attributes"]["user"], log["offset_ns"] >= -(10**6)) == ("tests.shop", "ann", True)

    assert main(["traces", "show", ui.store.path, trace_id, "--logs"]) == 0
    text = capsys.readouterr().out
    assert "WARNING tests.shop: stock of tea is low" in text
    assert text.index("stock of tea") < text.index("pay") < text.index("<b>no</b>")
    assert main(["traces", "show", ui.store.path, trace_id]) == 0
    assert "stock of tea" not in capsys.readouterr().out
    assert main(["traces", "show", ui.store.path, trace_id, "--logs", "--json"]) == 0
    assert [log["body"] for log in json.loads(capsys.readouterr().out)["logs"]] == ["stock of tea is low", "<b>no</b>"]


@pytest.mark.one_form
@pytest.mark.slow
def test_records_arrive_over_grpc(ui):
    with grpc.insecure_channel(ui.viewer.urls["grpc"].removeprefix("http://")) as channel:
        assert LogsServiceStub(channel).Export(message(), timeout=15) == ExportLogsServiceResponse()
    with SQLiteReader(ui.store.path) as reader:
        assert reader.traces() == []
    assert ui.store.counts()[-2:] == (2, 0)
    ui.send(span())
    with SQLiteReader(ui.store.path) as reader:
        (log,) = reader.logs(f"{1:032x}")
    assert (log.body, log.attributes) == ("hello", {"user": "ann"})


@pytest.mark.one_form
@pytest.mark.slow
def test_answers_of_the_logs_receiver(ui):
    answer = ui.post(octets(record()), "application/json", path="/v1/logs")
    assert (answer.status, answer.json) == (200, {})
    assert ui.post(message().SerializeToString(), path="/v1/logs").body == b""
    assert ui.post(b"\x0a\x05", path="/v1/logs").status == 400
    assert ui.post(octets(record()), "application/json", path="/v1/logs", Origin="https://evil.example").status == 403
    found = ui.store.counts()
    assert (found.logs, found.failed_requests, found.stored) == (3, 2, 0)


@pytest.mark.one_form
def test_records_are_evicted_with_the_spans_of_their_time(tmp_path):
    store = SpanStore(tmp_path / "small.db", max_bytes=1 << 20)
    for trace in range(1, 41):
        spans = [span(trace=trace, id=id, attributes={"bulk": "x" * 500}) for id in range(1, 21)]
        store.put(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode(), is_json=True)
        store.put(octets(*[record(trace, 1, "y" * 500) for _ in range(40)]), "logs", is_json=True)
    store.put(octets(record(40, 2, "z" * 100_000)), "logs", is_json=True)
    found = store.counts()
    store.close()
    assert found.evicted > 0
    assert found.evicted_logs > 0
    with SQLiteReader(store.path) as reader:
        assert reader.counts().spans == found.stored - found.evicted
        logs = [log for trace in reader.traces(limit=100) for log in reader.logs(trace.trace_id)]
    assert (found.logs, found.rejected) == (40 * 40 + 1, 0)
    assert 0 < len(logs) <= found.logs - found.evicted_logs
    (large,) = [log for log in logs if log.span_id == f"{2:016x}"]
    assert (large.body, large.attributes, large.dropped_attributes) == ("z" * 1000 + " …", {}, 1)


@pytest.mark.one_form
def test_deleting_a_trace_deletes_its_records(tmp_path):
    store = SpanStore(tmp_path / "spans.db", max_bytes=1 << 20)
    store.put(octets(record(1), record(2)), "logs", is_json=True)
    store.put(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span(trace=2)]}]}]}).encode(), is_json=True)
    store.close()
    exporter = SQLiteExporter(store.path)
    assert exporter.delete([f"{1:032x}"]) == 0
    exporter.shutdown()
    store = SpanStore(store.path, max_bytes=1 << 20)
    store.put(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span(trace=1)]}]}]}).encode(), is_json=True)
    store.close()
    with SQLiteReader(store.path) as reader:
        assert [len(reader.logs(f"{trace:032x}")) for trace in (1, 2)] == [0, 1]


def test_texts_that_a_request_repeats_count_for_each_record(tmp_path, protobuf):
    long = "\U0001d11e" * 4096
    found = ExportLogsServiceRequest()
    logs = found.resource_logs.add()
    logs.resource.attributes.add(key="service.name").value.string_value = long
    scope = logs.scope_logs.add()
    scope.scope.name = long
    for _ in range(1500):
        scope.log_records.add()
    read, _, size = protobuf.read_logs(found.SerializeToString(), 0)
    assert size > sum(len(str(cell).encode()) for row in read for cell in row)
    octets = json.dumps(request(*[{}] * 1500, service=long)).replace("shop.cart", long).encode()
    read, _, size = otlp_json.read_logs(octets, 0)
    assert size > sum(len(str(cell).encode()) for row in read for cell in row)
    store = SpanStore(tmp_path / "spans.db", max_bytes=16 << 20)  # the records are larger, the request is not
    assert store.put(octets, "logs", is_json=True) == 0
    store.close()
