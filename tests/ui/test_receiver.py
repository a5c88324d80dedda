"""The OTLP receivers: real servers, real exporters, and requests that no exporter sends."""

import asyncio
import gzip
import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

import tracekit
from tracekit.exporters.otlp import OTLPExporter
from tracekit.exporters.sqlite import SQLiteReader, StoreError
from tracekit.ui.receiver import Receiver
from tracekit.ui.server import Viewer, viewer
from tracekit.ui.store import MAX_REQUEST_BYTES, Busy, SpanStore

from .conftest import Running, bomb, request, span
from .test_protobuf import full_request

pytestmark = [pytest.mark.one_form, pytest.mark.slow]


ROOT = Path(tracekit.__file__).parents[1]


def counts(ui):
    found = ui.store.counts()
    with SQLiteReader(ui.store.path) as reader:
        assert reader.counts().spans == found.stored - found.evicted
    return found


@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json", "grpc"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_every_span_of_our_exporter_arrives(ui, protocol, compression):
    url = ui.viewer.urls["grpc"] if protocol == "grpc" else ui.viewer.urls["http"] + "/v1/traces"
    exporter = OTLPExporter(url, protocol=protocol, compression=compression, insecure=protocol == "grpc", environ={})
    tracekit.configure(service="shop", exporter=exporter, environ={})
    for number in range(3000):
        tracekit.span("job", attributes={"number": number}).end()
    assert tracekit.flush(60)
    tracekit.shutdown(60)
    found = counts(ui)
    assert (found.stored, found.rejected, found.failed_requests, found.evicted) == (3000, 0, 0, 0)


def test_opentelemetrys_exporter_is_understood(ui):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(ui.viewer.urls["http"] + "/v1/traces")))
    with provider.get_tracer("their.library").start_as_current_span("theirs"):
        pass
    provider.shutdown()
    with SQLiteReader(ui.store.path) as reader:
        (trace,) = reader.traces()
        (found,) = reader.spans(trace.trace_id)
    assert (found.name, found.instrumentation["name"]) == ("theirs", "their.library")


def test_rejected_spans_are_reported_and_the_rest_is_stored(ui):
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span(), span(traceId="")]}]}]}
    answer = ui.post(json.dumps(body).encode(), "application/json")
    assert answer.status == 200
    assert answer.json["partialSuccess"]["rejectedSpans"] == "1"
    good = full_request()
    octets = good + good.replace(b"t" * 16, bytes(16))
    answer = ui.post(octets)
    response = ExportTraceServiceResponse.FromString(answer.body)
    assert (answer.status, response.partial_success.rejected_spans) == (200, 1)
    assert "without a valid trace id" in response.partial_success.error_message
    found = counts(ui)
    assert (found.stored, found.rejected) == (2, 2)


@pytest.mark.parametrize(
    ("body", "headers", "status", "why"),
    [
        (b"\x0a\x05", {}, 400, b"cannot decode"),
        (b"no gzip", {"Content_Encoding": "gzip"}, 400, b"not gzip"),
        (gzip.compress(b"\x0a\x00")[:-4], {"Content_Encoding": "gzip"}, 400, b"cut off"),
        (gzip.compress(b"\x0a\x00") + b"x", {"Content_Encoding": "gzip"}, 400, b"follows"),
        (bomb(MAX_REQUEST_BYTES + 1), {"Content_Encoding": "gzip"}, 413, b"smaller batches"),
        (b"", {"Content_Length": str(MAX_REQUEST_BYTES + 1)}, 413, b"smaller batches"),
        (b"", {"Content_Encoding": "br"}, 415, b"Content-Encoding"),
        (b"", {"Host": "evil.example"}, 403, b"Host"),
        (b"", {"Origin": "https://evil.example"}, 403, b"another site"),
        (b"", {"Origin": "null"}, 403, b"another site"),
    ],
    ids=["protobuf", "gzip", "cut", "more", "bomb", "length", "brotli", "host", "origin", "null"],
)
def test_a_bad_request_is_answered_with_its_error_and_counted(ui, body, headers, status, why):
    answer = ui.post(body, **headers)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/x-protobuf")
    assert why in answer.body
    assert ui.store.counts()[:3] == (1, 1, 0)
    ui.send(span())  # the receiver works on


def test_an_error_in_json_is_answered_in_json(ui):
    answer = ui.post(b"{", "application/json")
    assert (answer.status, answer.json["code"]) == (400, 3)
    assert ui.post(b"{}", "text/plain").status == 415
    assert ui.post(b"{}", "application/json", path="/v1/metrics").status == 404
    assert request(ui.viewer.urls["http"], path="/v1/traces").status == 405
    assert ui.url.encode() in request(ui.viewer.urls["http"]).body


def test_a_local_page_may_send_its_spans(ui):
    origin = "http://localhost:3000"
    answer = request(ui.viewer.urls["http"], "OPTIONS", "/v1/traces", headers={"Origin": origin})
    sent = ui.post(full_request(), Origin=origin)
    assert (answer.status, sent.status, ui.store.counts().stored) == (204, 200, 1)
    for headers in (answer.headers, sent.headers):
        assert headers["access-control-allow-origin"] == origin
        assert headers["access-control-allow-credentials"] == "true"  # else sendBeacon() sends nothing


def test_a_body_without_length_that_becomes_too_large_is_not_read_to_its_end(ui):
    host, port = ui.viewer.urls["http"].removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=15)

    def chunks():
        while True:
            yield bytes(1 << 20)

    try:
        headers = {"Content-Type": "application/x-protobuf", "Transfer-Encoding": "chunked"}
        try:
            connection.request("POST", "/v1/traces", chunks(), headers, encode_chunked=True)
        except OSError:
            pass  # it was closed while we sent
        assert connection.getresponse().status == 413
    except ConnectionError:
        pass  # the answer was lost with the connection
    finally:
        connection.close()
    assert ui.store.counts()[:3] == (1, 1, 0)


@pytest.mark.parametrize(("length", "status"), [(b"\xb2", 200), (b"9" * 5000, 413)])
def test_any_content_length_is_answered(ui, length, status):
    async def receive():
        return {"type": "http.request", "body": b"{}"}

    async def send(message):
        sent.append(message)

    sent = []
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", length)]
    scope = {"type": "http", "method": "POST", "path": "/v1/logs", "headers": headers}
    with ThreadPoolExecutor(2) as executor:
        # In another thread: the tests of the browser leave an event loop running in this one.
        executor.submit(asyncio.run, Receiver(ui.store, executor)(scope, receive, send)).result()
    assert sent[0]["status"] == status


def test_requests_past_the_memory_bound_are_to_be_repeated(ui):
    for _ in range(60):
        ui.store.reserve(1 << 20)
    with pytest.raises(Busy):
        ui.store.reserve(1)
    answer = ui.post(full_request())
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    for _ in range(60):
        ui.store.release(1 << 20)
    assert ui.post(full_request()).status == 200


def test_a_store_that_fails_is_to_be_tried_again(ui, monkeypatch):
    def fail(*arguments):
        raise StoreError("disk I/O error", ui.store.path, "look at the disk")

    monkeypatch.setattr(ui.store._exporter, "store", fail)
    answer = ui.post(full_request())
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    channel = grpc.insecure_channel(ui.viewer.urls["grpc"].removeprefix("http://"))
    with channel, pytest.raises(grpc.RpcError) as caught:
        export(channel, full_request())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    monkeypatch.undo()
    assert ui.post(full_request()).status == 200
    assert ui.store.counts()[:3] == (3, 2, 1)


def method(channel, name="Export"):
    return channel.unary_unary(
        f"/opentelemetry.proto.collector.trace.v1.TraceService/{name}",
        response_deserializer=ExportTraceServiceResponse.FromString,
    )


def export(channel, octets):
    return method(channel)(octets, timeout=15)


def test_grpc_answers_with_its_codes(ui):
    with grpc.insecure_channel(ui.viewer.urls["grpc"].removeprefix("http://")) as channel:
        good = full_request()
        assert export(channel, good + good.replace(b"t" * 16, bytes(16))).partial_success.rejected_spans == 1
        for octets, code in [
            (b"\x0a\x05", grpc.StatusCode.INVALID_ARGUMENT),
            (bytes(MAX_REQUEST_BYTES + 1), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ]:
            with pytest.raises(grpc.RpcError) as caught:
                export(channel, octets)
            assert caught.value.code() is code
        assert TraceServiceStub(channel)  # the names of the service are theirs
    found = counts(ui)
    assert (found.stored, found.rejected, found.failed_requests) == (1, 1, 1)


def test_grpc_senders_wait_for_a_slow_store(ui):
    with grpc.insecure_channel(ui.viewer.urls["grpc"].removeprefix("http://")) as channel:
        with ui.store._writing:
            calls = [method(channel).future(full_request(), timeout=15) for _ in range(40)]
            with pytest.raises(grpc.RpcError) as caught:  # answered after the server has the calls before it
                method(channel, "None")(b"", timeout=15)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert {call.code() for call in calls} == {grpc.StatusCode.OK}


def test_a_full_store_evicts_the_oldest_and_counts_them(tmp_path):
    store = SpanStore(tmp_path / "small.db", max_bytes=1 << 20)
    big = json.dumps({"k": "x" * 1000})
    for trace in range(60):
        spans = [span(trace=trace + 1, id=id + 1, attributes={"bulk": big}) for id in range(50)]
        body = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
        assert store.put(json.dumps(body).encode(), is_json=True) == 0
    found = store.counts()
    store.close()
    with SQLiteReader(store.path) as reader:
        left = reader.counts().spans
        traces = [int(trace.trace_id, 16) for trace in reader.traces(limit=100)]
    assert found.stored == 3000 == left + found.evicted
    assert 0 < left < 1000
    assert sorted(traces) == list(range(61 - len(traces), 61))


FILL = """
import json, sys
from tracekit.exporters.sqlite import SQLiteReader
from tracekit.ui.store import SpanStore
store = SpanStore(sys.argv[1] + "/spans.db", max_bytes=1 << 40)
bulk = {"key": "bulk", "value": {"stringValue": "x" * 1000}}
for trace in range(1, 401):
    spans = [{"traceId": f"{trace:032x}", "spanId": f"{id:016x}", "attributes": [bulk]} for id in range(1, 101)]
    body = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
    assert store.put(json.dumps(body).encode(), is_json=True) == 0
counts = store.counts()
store.close()
with SQLiteReader(store.path) as reader:
    left = reader.counts()
    assert reader.spans(f"{400:032x}")
print(counts.stored, counts.evicted, left.spans)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system of a few megabytes: tmpfs")
def test_a_file_that_is_larger_than_the_usual_bound_keeps_its_traces(tmp_path, monkeypatch):
    before = SpanStore(tmp_path / "large.db")
    for trace in range(60):
        spans = [span(trace=trace + 1, id=id + 1, attributes={"bulk": "x" * 1000}) for id in range(50)]
        before.put(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode(), is_json=True)
    before.close()
    monkeypatch.setattr("tracekit.ui.store._MAX_BYTES", 1 << 20)
    store = SpanStore(before.path)
    found = store.counts()
    store.close()
    with SQLiteReader(store.path) as reader:
        assert (reader.counts().spans, found.evicted) == (3000, 0)


def test_on_a_full_disk_the_oldest_are_evicted_and_counted(tmp_path):
    mount = 'mount -t tmpfs -o size=40m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    done = subprocess.run(
        [*command, str(tmp_path), sys.executable, FILL], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    if done.returncode and "unshare" in done.stderr:
        pytest.skip(f"this system allows no mount in a namespace: {done.stderr.strip()[:200]}")
    assert (done.returncode, done.stderr) == (0, "")
    stored, evicted, left = map(int, done.stdout.split())
    assert stored == 400 * 100 == evicted + left
    assert 5000 < left < 30_000


def test_a_disk_that_others_fill_costs_the_oldest_spans_only(tmp_path, monkeypatch):
    store = SpanStore(tmp_path / "spans.db", max_bytes=1 << 30)

    def put(trace):
        spans = [span(trace=trace, id=id, attributes={"bulk": "x" * 1000}) for id in range(1, 201)]
        body = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
        assert store.put(json.dumps(body).encode(), is_json=True) == 0

    for trace in range(1, 121):
        put(trace)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    for trace in range(121, 131):
        put(trace)
    found = store.counts()
    store.close()
    with SQLiteReader(store.path) as reader:
        left = reader.counts().spans
        assert reader.spans(f"{130:032x}")
    assert found.stored == 130 * 200 == left + found.evicted
    assert 0 < found.evicted < 130 * 200 - 1000


def test_concurrent_senders_lose_nothing(ui):
    def send(sender):
        for batch in range(10):
            ui.send(*[span(trace=sender + 1, id=1 + batch * 20 + at) for at in range(20)])

    threads = [threading.Thread(target=send, args=[sender]) for sender in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(ui).stored == 6 * 200


def test_a_port_in_use_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name in ("port", "http_port", "grpc_port"):
            ports = {"port": 0, "http_port": 0, "grpc_port": 0, name: port}
            with pytest.raises(OSError, match=f"port {port}"):
                Viewer(tmp_path / "spans.db", **ports)


def test_without_receivers_there_are_only_pages(tmp_path):
    with viewer(tmp_path / "spans.db", port=0, http_port=None, grpc_port=None) as running:
        assert set(running.urls) == {"pages"}
        assert Running(running).get("/api/status").json["stored"] == 0


def test_a_file_that_is_only_shown_is_not_changed(tmp_path):
    path = tmp_path / "spans.db"
    store = SpanStore(path, max_bytes=1 << 30)
    for trace in range(1, 11):
        spans = [span(trace=trace, id=id, attributes={"bulk": "x" * 1000}) for id in range(1, 201)]
        store.put(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode(), is_json=True)
    store.close()
    before = path.read_bytes()
    assert len(before) > 1 << 20  # the bound, to which a receiver would evict
    with viewer(path, port=0, http_port=None, grpc_port=None, max_bytes=1 << 20) as running:
        assert len(Running(running).get("/api/traces").json["traces"]) == 10
    assert path.read_bytes() == before
