"""The OTLP exporter: delivery, retries, losses and their reports, TLS, arguments, other processes, and the spool."""

from __future__ import annotations

import http.client
import itertools
import multiprocessing
import os
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

import tracekit
from tracekit._core.otlp import PORTION, encode_spans
from tracekit.exporters import otlp
from tracekit.exporters._otlp import answers as _answers
from tracekit.exporters._otlp import sender as _sender
from tracekit.exporters._otlp.http import _retry_after
from tracekit.exporters.otlp import DeliveryError, OTLPExporter
from tracekit.testing import MemoryExporter

from ..tools.pipeline import Balance
from ..tools.ports import free_port
from .collector import (
    Collector,
    GrpcCollector,
    Proxy,
    Silence,
    babble,
    cut,
    refuse,
    reject,
    take,
    truncate,
)


def made(count=1, name="job"):
    """Finished spans that no pipeline exports."""
    memory = MemoryExporter()
    tracekit.configure(service="shop", exporter=memory)
    for number in range(count):
        tracekit.span(f"{name} {number}").end()
    return memory.spans


def exporter(collector, **options):
    return OTLPExporter(collector.url, environ={}, **options)


def until(is_so):
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_program_that_exports_imports_little_else():
    """Imports take time and memory, and every full garbage collection visits their objects."""
    program = """
        import sys, tracekit
        from tracekit.exporters.otlp import OTLPExporter
        tracekit.configure(exporter=OTLPExporter("http://127.0.0.1:9", environ={}))
        for url in "http://127.0.0.1:9", "http://[::1]:9":
            answer = OTLPExporter(url, environ={})._client.send(b"", "application/x-protobuf", "")
            assert answer.outcome == "later", answer
        large = {"encodings.idna", "importlib.metadata", "sqlite3", "unicodedata", "urllib.request", "urllib3"}
        large &= sys.modules.keys()
        assert not large, large
    """
    environ = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- delivery


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "http/json"])
def test_spans_arrive(collector, protocol, compression):
    sender = exporter(collector, protocol=protocol, compression=compression, headers={"Api-Key": "secret"})
    spans = made(3)
    sender.export(spans)
    sender.shutdown()
    assert [span.name for span in collector.spans] == ["job 0", "job 1", "job 2"]
    assert [span.trace_id.hex() for span in collector.spans] == [span.context.trace_id for span in spans]
    (headers,) = collector.headers
    assert (
        headers["content-type"]
        == {"http/protobuf": "application/x-protobuf", "http/json": "application/json"}[protocol]
    )
    assert headers.get("content-encoding", "none") == compression
    assert headers["api-key"] == "secret"
    assert headers["user-agent"] == f"tracekit/{tracekit.__version__}"


def test_through_the_pipeline_every_span_arrives_once(collector):
    tracekit.configure(exporter=exporter(collector), environ={}, batch_size=2048)
    balance = Balance()
    for number in range(5000):
        tracekit.span(f"span {number}").end()
    assert tracekit.flush(20)
    assert collector.names == Counter(f"span {number}" for number in range(5000))
    assert (balance.exported, balance.queued, balance.failed) == (5000, 0, 0)
    assert len(collector.requests) >= 3


def test_the_connection_stays_open(collector):
    sender = exporter(collector)
    for _ in range(5):
        sender.export(made())
    assert len(collector.requests) == 5
    assert len(collector.clients) == 1
    sender.shutdown()


def test_a_connection_that_the_collector_has_closed_is_opened_again(collector):
    sender = exporter(collector)
    sender.export(made())
    for connection in list(collector.connections):
        connection.shutdown(socket.SHUT_RDWR)
    sender.export(made())
    assert len(collector.requests) == 2
    sender.shutdown()


def test_a_batch_that_is_too_large_for_one_request_is_sent_in_several(collector, monkeypatch):
    spans = made(50)
    # The size includes the resource, which is as long as the interpreter's path, so the limit is a size: that of the
    # largest quarter of the batch, which is halved until it fits.
    quarters = [spans[:12], spans[12:25], spans[25:37], spans[37:]]
    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", max(len(encode_spans(quarter)) for quarter in quarters))
    sender = exporter(collector)
    sender.export(spans)
    assert [span.name for span in collector.spans] == [span.name for span in spans]
    assert len(collector.requests) == 4
    sender.shutdown()


def test_a_span_that_is_too_large_for_a_request_is_sent_alone(collector, monkeypatch):
    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", 10)
    sender = exporter(collector)
    sender.export(made(2))
    assert len(collector.spans) == len(collector.requests) == 2
    sender.shutdown()


def test_an_empty_batch_sends_nothing(collector):
    sender = exporter(collector)
    sender.export([])
    sender.shutdown()
    assert collector.requests == []


def test_after_a_shutdown_it_can_be_used_again(collector):
    sender = exporter(collector)
    for _ in range(2):
        sender.export(made())
        sender.hurry()
        sender.shutdown()
    assert len(collector.spans) == 2


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_spans_arrive_over_grpc(compression):
    with GrpcCollector() as collector:
        sender = exporter(collector, protocol="grpc", compression=compression, headers={"Api-Key": "secret"})
        sender.export(made(3))
        sender.export(made(1))
        sender.shutdown()
        assert [span.name for span in collector.spans] == ["job 0", "job 1", "job 2", "job 0"]
        assert collector.metadata[0]["api-key"] == "secret"


@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:{}", "ipv4:127.0.0.1:{}", "dns:///127.0.0.1:{}", "grpc://127.0.0.1:{}", "grpc://127.0.0.1:{}/"],
)
def test_a_grpc_target_need_not_be_a_url_of_http(target):
    with GrpcCollector() as collector:
        sender = OTLPExporter(target.format(collector.port), protocol="grpc", insecure=True, environ={})
        sender.export(made())
        sender.shutdown()
        assert len(collector.spans) == 1


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_the_path_of_a_grpc_endpoint_is_ignored_and_reported_once(scheme, caplog):
    with GrpcCollector() as collector:
        for _ in range(2):
            endpoint = f"{scheme}://user:secret@127.0.0.1:{collector.port}/v1/traces?key=secret"
            sender = OTLPExporter(endpoint, protocol="grpc", environ={})
            sender.export(made())
            sender.shutdown()
        assert len(collector.spans) == 2
    told = f"{scheme}://...@127.0.0.1:{collector.port}/v1/traces"
    assert lines(caplog) == [f"OTLP over gRPC has no use for the path of its endpoint, and ignores it: '{told}'"]


@pytest.mark.parametrize(("scheme", "is_secure"), [("https", True), ("grpcs", True), ("http", False), ("grpc", False)])
def test_the_scheme_of_a_grpc_endpoint_tells_whether_there_is_tls(scheme, is_secure):
    client = OTLPExporter(f"{scheme}://127.0.0.1:1", protocol="grpc", environ={})._client
    transport = client._current_transport()
    transport.close()
    assert transport.is_secure is is_secure


def test_arguments_default_to_the_environment(collector):
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url.removesuffix("/v1/traces"),
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=secret",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
    }
    sender = OTLPExporter(environ=environ)
    assert (sender.timeout_s, sender.endpoint) == (1.5, collector.url)
    sender.export(made())
    sender.shutdown()
    assert collector.headers[0]["content-encoding"] == "gzip"
    assert collector.headers[0]["api-key"] == "secret"
    sender = OTLPExporter(environ=environ, compression="none", headers={"api-key": "other"}, timeout_s=2)
    assert sender.timeout_s == 2.0
    sender.export(made())
    sender.shutdown()
    assert "content-encoding" not in collector.headers[1]
    assert collector.headers[1]["api-key"] == "other"


def test_configure_makes_one_from_the_environment(collector):
    tracekit.configure(environ={"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "shop"})
    tracekit.span("job").end()
    assert tracekit.flush(20)
    (request,) = collector.requests
    attributes = {item.key: item.value.string_value for item in request.resource_spans[0].resource.attributes}
    assert attributes["service.name"] == "shop"


@pytest.mark.parametrize(
    ("endpoint", "protocol", "whole"),
    [
        ("http://h:1", None, "http://h:1/v1/traces"),
        ("http://h:1/", None, "http://h:1/v1/traces"),
        ("http://h/otlp", None, "http://h/otlp"),
        ("https://user:pass@h/v1/traces", None, "https://...@h/v1/traces"),
        (None, None, "http://localhost:4318/v1/traces"),
        (None, "grpc", "http://localhost:4317"),
        ("h:4317", "grpc", "h:4317"),
    ],
)
def test_endpoints(endpoint, protocol, whole):
    assert OTLPExporter(endpoint, protocol=protocol, environ={}).endpoint == whole


def test_user_info_in_the_endpoint_is_sent_as_authorization(collector):
    sender = OTLPExporter(collector.url.replace("//", "//me:secret@"), environ={})
    sender.export(made())
    sender.shutdown()
    assert collector.headers[0]["authorization"] == "Basic bWU6c2VjcmV0"


# ---- retries


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_collector_is_asked_again(status, caplog):
    with Collector(refuse(status), refuse(status, Retry_After="0"), refuse(status, Retry_After="soon")) as collector:
        sender = exporter(collector)
        sender.export(made(2))
        sender.shutdown()
        assert len(collector.headers) == 4
        assert len(collector.spans) == 2
    assert not caplog.records


@pytest.mark.parametrize(
    "fault", [cut, truncate, babble(b"SSH-2.0-x\r\n"), babble(b"\0" * 100), babble(b"HTTP/1.1 200 OK\r\n")]
)
def test_a_collector_that_breaks_off_is_asked_again(fault):
    with Collector(fault, fault) as collector:
        sender = exporter(collector)
        sender.export(made(2))
        sender.shutdown()
        assert collector.names.keys() == {"job 0", "job 1"}
        assert len(collector.headers) == 3


def test_a_request_is_retried_until_the_collector_has_started():
    port = free_port()
    spans = made(2)
    sender = OTLPExporter(f"http://127.0.0.1:{port}", environ={}, timeout_s=20)
    thread = threading.Thread(target=sender.export, args=(spans,))
    thread.start()
    with Collector(port=port) as collector:
        thread.join(20)
        assert len(collector.spans) == 2
    sender.shutdown()


def test_retry_after_is_honored():
    times = []

    def note(handler, request):
        times.append(time.monotonic())
        refuse(503, Retry_After="1")(handler, request) if len(times) == 1 else take(handler, request)

    with Collector(note, note) as collector:
        sender = exporter(collector)
        sender.export(made())
        sender.shutdown()
    assert times[1] - times[0] >= 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("0", 0),
        (" 7 ", 7),
        ("99999999999999999999", 600),
        pytest.param(format_datetime(datetime.now(UTC) - timedelta(days=1)), 0, id="yesterday"),
        pytest.param(format_datetime(datetime.now(UTC) + timedelta(days=1)), 600, id="tomorrow"),
        ("Tue, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_bounded(value, seconds):
    assert _retry_after(value) == seconds


def test_a_retry_after_of_zero_does_not_cause_a_tight_loop(monkeypatch):
    monkeypatch.setattr(_answers, "_FIRST_S", 100.0)  # longer than the time limit, so it is not waited for
    with Collector(*[refuse(503, Retry_After="0")] * 1000) as collector:
        reason(exporter(collector))
        assert len(collector.headers) == 1


def test_waits_grow_and_are_never_alike():
    waits = [[backoff.next_s() for _ in range(40)] for backoff in (_sender.Backoff(1.0), _sender.Backoff(1.0))]
    assert waits[0] != waits[1]
    for wait in waits:
        assert all(0.005 * 2**at <= one <= 0.01 * 2**at for at, one in enumerate(wait[:6]))
        assert all(0.5 <= one <= 1 for one in wait[8:])


def test_clients_that_get_the_same_retry_after_do_not_return_at_the_same_time():
    waits = sorted(_answers.backoff_s(0, at_least_s=30.0) for _ in range(1000))
    assert 30 <= waits[0] < 32
    assert 43 < waits[-1] <= 45
    assert max(later - earlier for earlier, later in itertools.pairwise(waits)) < 1


def test_the_spread_of_a_wait_that_fits_does_not_pass_the_deadline():
    assert all(8.0 <= _answers.backoff_s(0, at_least_s=8.0, left_s=10.0) < 10.0 for _ in range(1000))
    assert all(_answers.backoff_s(0, at_least_s=12.0, left_s=10.0) >= 12.0 for _ in range(100))


def test_a_batch_is_encoded_in_portions_between_which_other_threads_run(collector, monkeypatch):
    pauses = []
    monkeypatch.setattr(otlp, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    spans = made(2 * PORTION + 1)
    exporter(collector).export(spans)
    assert len(pauses) == 2
    assert min(pauses) > 0
    assert len(collector.requests) == 1
    assert [span.span_id.hex() for span in collector.spans] == [span.context.span_id for span in spans]


@pytest.mark.parametrize("status", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "DATA_LOSS"])
def test_retryable_grpc_statuses_are_retried(status):
    grpc = pytest.importorskip("grpc")

    with GrpcCollector(lambda _, context: context.abort(grpc.StatusCode[status], "later")) as collector:
        sender = exporter(collector, protocol="grpc")
        sender.export(made())
        sender.shutdown()
        assert len(collector.metadata) == 2
        assert len(collector.spans) == 1


def test_a_grpc_collector_is_reached_as_soon_as_it_has_started():
    """grpcio's channel waits for a second and more, up to two minutes, before it connects again."""
    port = free_port()
    sender = OTLPExporter(f"http://127.0.0.1:{port}", protocol="grpc", environ={})
    assert [sender.probe(made()[0]).outcome for _ in range(2)] == ["later", "later"]
    with GrpcCollector(port=port) as collector:
        assert collector.port == port
        assert sender.probe(made()[0]).outcome == "taken"
        sender.shutdown()


def retry_info(seconds):
    detail = b"\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04\x0a\x02\x08" + bytes([seconds])
    return b"\x08\x08\x1a" + bytes([len(detail)]) + detail


def test_resource_exhausted_with_retry_information_is_retried():
    grpc = pytest.importorskip("grpc")

    def full(_, context):
        context.set_trailing_metadata([("grpc-status-details-bin", retry_info(0))])
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

    with GrpcCollector(full) as collector:
        sender = exporter(collector, protocol="grpc")
        sender.export(made())
        sender.shutdown()
        assert len(collector.spans) == 1


# ---- losses and their reports


def test_rejected_spans_are_counted_reported_once_and_not_sent_again(caplog):
    with Collector(reject(2, "no\nroom"), reject(1, "no\nroom")) as collector:
        tracekit.configure(exporter=exporter(collector), environ={})
        balance = Balance()
        for _ in range(2):
            for _ in range(5):
                tracekit.span("job").end()
            assert tracekit.flush(20)
        assert (balance.exported, balance.failed) == (7, 3)
        assert len(collector.headers) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "the collector rejected 2 of 5 spans: 'no\\nroom'",
    ]


@pytest.mark.parametrize("count", [1 << 40, 1 << 20])
def test_no_more_can_be_rejected_than_were_sent(count):
    with Collector(reject(count, "all")) as collector:
        tracekit.configure(exporter=exporter(collector), environ={})
        balance = Balance()
        tracekit.span("job").end()
        assert tracekit.flush(20)
        assert balance.exported + balance.failed == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 415, 418, 500, 501, 301])
def test_a_rejected_batch_is_dropped_at_once(status):
    with Collector(refuse(status, Location="http://elsewhere/")) as collector:
        sender = exporter(collector)
        with pytest.raises(DeliveryError, match=f"{collector.url} answered {status} .*: [a-z]"):
            sender.export(made())
        sender.shutdown()
        assert len(collector.headers) == 1


def test_a_rejected_request_does_not_lose_the_rest_of_the_batch(monkeypatch, caplog):
    monkeypatch.setattr(otlp, "MAX_REQUEST_BYTES", 500)
    with Collector(take, refuse(400)) as collector:
        tracekit.configure(exporter=exporter(collector), environ={})
        balance = Balance()
        for _ in range(8):
            tracekit.span("job").end()
        assert tracekit.flush(20)
        assert balance.failed == 8 - len(collector.spans) > 0
        assert balance.exported == len(collector.spans) > 0
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


def test_a_loss_is_one_clear_line(caplog):
    with Collector(refuse(404), refuse(404)) as collector:
        tracekit.configure(exporter=exporter(collector), environ={})
        balance = Balance()
        for _ in range(2):
            tracekit.span("job").end()
            assert tracekit.flush(20)
        assert balance.failed == 2
    assert lines(caplog) == [
        f"OTLPExporter failed, 1 span lost: DeliveryError: {collector.url} answered 404 Not Found: the path of an OTLP/HTTP "
        "endpoint usually ends in /v1/traces (reported once per cause; tracekit.statistics() counts all)"
    ]


def reason(sender):
    with pytest.raises(DeliveryError) as caught:
        sender.export(made())
    sender.shutdown()
    return str(caught.value)


def first_reason(sender):
    """The reason for the failure of the first try, without a time limit."""
    answer = sender.probe(made()[0])
    sender.shutdown()
    assert answer.outcome == "later"
    return answer.reason


def test_a_missing_collector_is_reported():
    url = f"http://127.0.0.1:{free_port()}/v1/traces"
    said = first_reason(OTLPExporter(url, environ={}))
    assert said.startswith(f"{url} cannot be reached: is a collector listening there? (")
    assert "refused" in said


def test_an_unknown_host_is_reported():
    said = first_reason(OTLPExporter("http://no-such-host.invalid:4318", environ={}))
    assert said == (
        "http://no-such-host.invalid:4318/v1/traces: no such host: check the endpoint, or OTEL_EXPORTER_OTLP_ENDPOINT"
    )


def test_the_wait_for_a_silent_collector_is_bounded():
    silence = Silence()
    with Collector(silence) as collector:
        said = reason(exporter(collector, timeout_s=0.2))
        assert said.startswith(collector.url)
        assert " in time" in said
        silence.over.set()


def test_nothing_is_sent_after_the_deadline_even_by_a_thread_that_sleeps_through_its_wait(monkeypatch):
    monkeypatch.setattr(_answers, "_FIRST_S", 0.0)
    silence = Silence()
    with Collector(silence) as collector:  # which would take a second request
        assert "in time" in reason(exporter(collector, timeout_s=0.1))
        silence.over.set()


def test_a_request_is_tried_once_at_the_end_of_a_program_even_by_a_thread_that_sleeps_through_its_wait(monkeypatch):
    monkeypatch.setattr(_answers, "_FIRST_S", 0.0)
    with Collector(*[refuse(503)] * 1000) as collector:
        sender = exporter(collector)
        sender.hurry()
        reason(sender)
        assert len(collector.headers) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_timeout_before_the_request_is_sent_is_reported_as_one(scheme):
    with Collector() as collector:
        url = collector.url.replace("http", scheme)
        said = first_reason(OTLPExporter(url, environ={}, timeout_s=1e-9))
        assert said == f"{url} does not answer in time"
        assert not collector.headers


def test_reading_an_endless_answer_is_bounded():
    over = threading.Event()

    def drip(handler, _):
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 1000000\r\n\r\n"
        )
        try:
            while not over.wait(0.01):
                handler.wfile.write(b"\x0a")
                handler.wfile.flush()
        except OSError:
            pass

    with Collector(drip) as collector:
        said = reason(exporter(collector, timeout_s=0.3))
        assert said.startswith(collector.url)
        assert " in time" in said
        over.set()


def test_an_answer_that_is_too_large_is_not_read():
    with Collector(refuse(200, b"x" * 2_000_000, Content_Type="application/x-protobuf")) as collector:
        assert "more than 65536 bytes" in first_reason(exporter(collector))


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"<html>", "text/html", "text/html is not OTLP's"),
        (b"\xff\xff", "application/x-protobuf", "in protobuf"),
        (b"\x0b", "application/x-protobuf", "wire type 3"),
        (b"\x0a\x05\x08", "application/x-protobuf", "in protobuf"),
        (b"{", "application/json", "in JSON"),
        (b"[]", "application/json", "in JSON"),
        (b'{"partialSuccess": 1}', "application/json", "in JSON"),
        (b"[" * 60000, "application/json", "in JSON"),
    ],
)
def test_an_answer_that_is_not_a_collectors_is_reported(body, kind, said):
    with Collector(refuse(200, body, Content_Type=kind)) as collector:
        why = first_reason(exporter(collector))
        assert "but as no OTLP collector does" in why
        assert said in why


def test_the_port_of_grpc_is_reported_as_such():
    with GrpcCollector() as collector:
        said = first_reason(OTLPExporter(collector.url, environ={}))
        assert "4317 is the port of OTLP/gRPC" in said


def test_http_on_a_grpc_port_is_reported(collector):
    said = first_reason(OTLPExporter(collector.url, protocol="grpc", environ={}))
    assert "it does not speak gRPC (4318 is the port of OTLP/HTTP)" in said


@pytest.mark.parametrize(
    ("status", "advice"),
    [("UNAUTHENTICATED", "set headers"), ("UNIMPLEMENTED", "not an OTLP collector"), ("RESOURCE_EXHAUSTED", "no room")],
)
def test_a_batch_that_is_rejected_over_grpc_is_dropped_at_once(status, advice):
    grpc = pytest.importorskip("grpc")

    with GrpcCollector(lambda _, context: context.abort(grpc.StatusCode[status], "no\nway")) as collector:
        said = reason(exporter(collector, protocol="grpc"))
        assert advice in said
        assert "no\\nway" in said
        assert len(collector.metadata) == 1


# ---- TLS


def test_a_trusted_certificate_is_accepted(tls_collector, authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    sender = exporter(tls_collector, certificate=tmp_path / "ca.pem")
    sender.export(made())
    sender.shutdown()
    assert len(tls_collector.spans) == 1


def test_a_client_shows_its_certificate(authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    mine = authority.issue_cert("me@example.org")
    mine.cert_chain_pems[0].write_to_path(tmp_path / "me.pem")
    mine.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with Collector(tls=context) as collector:
        sender = OTLPExporter(
            collector.url,
            environ={},
            certificate=tmp_path / "ca.pem",
            client_certificate=tmp_path / "me.pem",
            client_key=tmp_path / "key.pem",
        )
        sender.export(made())
        sender.shutdown()
        assert len(collector.spans) == 1


def test_certificates_are_read_again_once_they_have_changed(tls_collector, authority, tmp_path):
    path = tmp_path / "ca.pem"
    type(authority)().cert_pem.write_to_path(path)
    sender = exporter(tls_collector, certificate=path)
    assert "its certificate is not trusted" in reason(sender)
    authority.cert_pem.write_to_path(path)
    sender.export(made())
    for octets in (b"half of a fi", b""):  # a file that is being replaced: the certificate from before is used
        path.write_bytes(octets)
        sender.export(made())
    path.unlink()
    sender.export(made())
    sender.shutdown()
    assert len(tls_collector.spans) == 4


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_connection_stays_while_its_certificates_do(protocol, authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    client = OTLPExporter("https://127.0.0.1:1", certificate=path, protocol=protocol, environ={})._client
    first = client._current_transport()
    assert client._current_transport() is first
    os.utime(path, ns=(1, 1))
    second = client._current_transport()
    assert second is not first
    assert client._current_transport() is second
    first.close()
    second.close()


def encrypted(pem):
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key(pem, None)
    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("client_key encrypted", "client_key is encrypted: store it without a password"),
        ("client_key of another", "client_certificate or client_key is not valid: KEY_VALUES_MISMATCH"),
        ("client_key", "client_certificate or client_key is not valid: "),
        ("client_certificate", "client_certificate or client_key is not valid: "),
        ("certificate", ": certificate is not valid: "),
    ],
)
def test_files_that_are_not_valid_are_named_at_once_and_no_password_is_asked_for(wrong, said, authority, tmp_path):
    mine, other = authority.issue_cert("me@example.org"), authority.issue_cert("other@example.org")
    contents = {
        "certificate": authority.cert_pem.bytes(),
        "client_certificate": mine.cert_chain_pems[0].bytes(),
        "client_key": mine.private_key_pem.bytes(),
    }
    name, _, how = wrong.partition(" ")
    contents[name] = {
        "": b"no PEM",
        "encrypted": encrypted(contents["client_key"]),
        "of another": other.private_key_pem.bytes(),
    }[how]
    for file, octets in contents.items():
        (tmp_path / file).write_bytes(octets)
    sender = OTLPExporter(
        "https://127.0.0.1:9", environ={}, timeout_s=3600, **{file: tmp_path / file for file in contents}
    )
    assert said in reason(sender)


def test_an_untrusted_certificate_is_reported_at_once(tls_collector):
    said = reason(exporter(tls_collector, timeout_s=20))
    assert "its certificate is not trusted" in said
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in said


def test_a_server_without_tls_is_reported_at_once(collector):
    said = reason(OTLPExporter(collector.url.replace("http:", "https:"), environ={}, timeout_s=20))
    assert said.endswith("it does not speak TLS: write http:// instead of https://")


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_missing_certificate_file_is_reported_at_once(collector, protocol, tmp_path):
    path = tmp_path / "none.pem"
    sender = OTLPExporter("https://127.0.0.1:1", certificate=path, protocol=protocol, environ={}, timeout_s=20)
    assert reason(sender) == f"{path} cannot be read: No such file or directory"


# ---- invalid arguments


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"endpoint": 5}, TypeError, "endpoint must be str, not int"),
        (
            {"endpoint": "localhost:4318"},
            ValueError,
            "endpoint must be a URL such as http://localhost:4318: 'localhost:4318'",
        ),
        ({"endpoint": "ftp://h"}, ValueError, "endpoint must be a URL"),
        ({"endpoint": "http://h:99999"}, ValueError, "endpoint must be a URL"),
        (
            {"endpoint": "http://me:secret@h:x"},
            ValueError,
            "endpoint must be a URL such as http://localhost:4318: 'http://...@h:x'",
        ),
        ({"endpoint": "http://h/\r\nx: y"}, ValueError, "endpoint must be a URL"),
        ({"headers": ["a"]}, TypeError, "headers must be a mapping, not list"),
        ({"headers": {"a": 1}}, TypeError, "headers must hold str names and values"),
        (
            {"headers": {"a b": "secret"}},
            ValueError,
            "headers must hold valid header names: that of header 1 is not",
        ),
        ({"headers": {"": "secret"}}, ValueError, "headers must hold valid header names"),
        ({"headers": {"a": "sec\r\nret"}}, ValueError, "headers must hold values of printable ASCII"),
        ({"timeout_s": "1"}, TypeError, "timeout_s must be a number, not str"),
        ({"timeout_s": 0}, ValueError, "timeout_s must be above 0 and at most 3600: 0"),
        ({"compression": "zip"}, ValueError, "compression must be one of none, gzip: 'zip'"),
        ({"protocol": "http"}, ValueError, "protocol must be one of http/protobuf, http/json, grpc: 'http'"),
        ({"protocol": 1}, TypeError, "protocol must be str, not int"),
        ({"spool": 5}, TypeError, ""),
        ({"spool": "x", "spool_bytes": 5}, ValueError, "spool_bytes must be at least 1048576: 5"),
        ({"spool_bytes": 1.5}, TypeError, "spool_bytes must be int, not float"),
    ],
)
def test_invalid_arguments_are_reported(arguments, error, said):
    with pytest.raises(error) as caught:
        OTLPExporter(environ={}, **arguments)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


# ---- the end, and other processes


def test_a_program_that_ends_does_not_wait_for_a_collector_that_is_away(monkeypatch):
    monkeypatch.setattr(_answers, "_FIRST_S", 1000.0)
    tracekit.configure(
        exporter=OTLPExporter(f"http://127.0.0.1:{free_port()}", environ={}, timeout_s=3000), export_interval_s=0.001
    )
    balance = Balance()
    tracekit.span("job").end()
    assert tracekit.shutdown(20)
    assert balance.failed == 1


def _export_in_child(sender, url):
    tracekit.configure(exporter=sender)
    tracekit.span("child").end()
    tracekit.shutdown(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_opens_its_own_connection(collector):
    sender = exporter(collector)
    tracekit.configure(exporter=sender, environ={})
    tracekit.span("before").end()
    assert tracekit.flush(20)
    process = multiprocessing.get_context("fork").Process(target=_export_in_child, args=(sender, collector.url))
    process.start()
    process.join(20)
    assert process.exitcode == 0
    tracekit.span("after").end()
    assert tracekit.flush(20)
    assert collector.names == Counter(["before", "child", "after"])
    assert len(collector.clients) == 2


def test_after_a_fork_the_parents_losses_are_not_the_childs(collector):
    sender = exporter(collector)
    sender._failed = 7
    assert sender.account().failed == 7
    sender._client._pid = -1  # as if this process were the child
    assert sender.account().failed == 0


def test_requests_of_the_exporter_are_not_traced(collector, monkeypatch):
    """With an instrumentation of http.client."""
    request = http.client.HTTPConnection.request
    recorded = []

    def traced(*arguments, **options):
        with tracekit.span("POST", kind="client") as span:
            recorded.append(span.is_recording)
            return request(*arguments, **options)

    monkeypatch.setattr(http.client.HTTPConnection, "request", traced)
    tracekit.configure(exporter=exporter(collector), environ={})
    tracekit.span("job").end()
    assert tracekit.flush(20)
    assert tracekit.flush(20)
    assert collector.names == Counter(["job"])
    assert recorded == [False]


# ---- the spool


@pytest.fixture
def spool(tmp_path):
    return tmp_path / "spool.db"


def test_a_spool_is_emptied_into_the_collector(collector, spool):
    tracekit.configure(exporter=exporter(collector, spool=spool, compression="gzip"), environ={})
    balance = Balance()
    for number in range(100):
        tracekit.span(f"span {number}").end()
    assert tracekit.flush(20)
    assert collector.names == Counter(f"span {number}" for number in range(100))
    assert balance.exported == 100


def test_while_the_collector_is_away_spans_wait_in_the_spool(spool, caplog):
    port = free_port()
    sender = OTLPExporter(f"http://127.0.0.1:{port}", environ={}, spool=spool)
    tracekit.configure(exporter=sender, environ={})
    balance = Balance()
    tracekit.span("early").end()
    assert not tracekit.flush(20)
    assert balance.exported == 1
    assert sender.ledger().waiting == 1
    with Collector(port=port) as collector:
        tracekit.span("late").end()
        until(lambda: collector.names == Counter(["early", "late"]))
        assert tracekit.flush(20)
    assert sender.ledger()[:5] == (2, 2, 0, 0, 0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert lines(caplog)[0].endswith("; spans wait in the spool")


def test_the_next_process_sends_the_batches_that_wait(spool, caplog):
    tracekit.configure(
        exporter=OTLPExporter(f"http://127.0.0.1:{free_port()}", environ={}, spool=spool, timeout_s=0.2), environ={}
    )
    tracekit.span("left").end()
    assert tracekit.shutdown(20)
    with Collector() as collector:
        tracekit.configure(exporter=exporter(collector, spool=spool), environ={})
        until(lambda: collector.names == Counter(["left"]))  # without a new span
        tracekit.configure()


def test_a_rejected_batch_does_not_delay_the_others(spool, caplog):
    with Collector(refuse(400), reject(1, "one too many")) as collector:
        sender = exporter(collector, spool=spool)
        for count in (3, 5, 2):
            sender.export(made(count))
            assert sender.flush(20)
        assert len(collector.spans) == 7
        assert sender.ledger()[:5] == (10, 6, 4, 0, 0)
        sender.shutdown()
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_a_collector_with_every_fault_gets_every_span(spool):
    faults = [
        cut,
        truncate,
        refuse(503, Retry_After="0"),
        babble(b"garbage"),
        refuse(200, b"hi", Content_Type="text/html"),
    ]
    with (
        Collector() as collector,
        Proxy(collector.url, lambda number: faults[number // 2 % 5] if number % 2 else None) as proxy,
    ):
        sender = OTLPExporter(proxy.url, environ={}, spool=spool)
        spans = made(40)
        for at in range(0, 40, 2):
            sender.export(spans[at : at + 2])
        until(lambda: sender.ledger().waiting == 0)
        assert set(collector.names) == {span.name for span in spans}
        assert sum(proxy.faults.values()) - proxy.faults["pass"] >= 10
        sender.shutdown()


def test_closing_an_exporter_with_a_spool_waits_for_a_silent_collector_for_a_bounded_time(spool, monkeypatch):
    monkeypatch.setattr(otlp, "FAREWELL_S", 0.1)
    silence = Silence()
    with Collector(silence) as collector:
        sender = exporter(collector, spool=spool, timeout_s=20)
        sender.export(made())
        assert silence.entered.wait(20)
        sender.shutdown()
        assert sender.ledger().waiting == 1
        silence.over.set()


def _fill(url, spool, number):
    tracekit.configure(exporter=OTLPExporter(url, environ={}, spool=spool), environ={})
    for at in range(50):
        tracekit.span(f"{number} {at}").end()
        tracekit.flush(20)
    tracekit.shutdown(60)


def test_processes_share_a_spool(collector, spool):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fill, args=(collector.url, str(spool), number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    sender = exporter(collector, spool=spool)
    sender.start()
    assert sender.flush(20)
    assert set(collector.names) == {f"{number} {at}" for number in range(3) for at in range(50)}
    ledger = sender.ledger()
    assert (ledger.put, ledger.waiting, ledger.evicted) == (150, 0, 0)
    sender.shutdown()


def test_the_table_of_losses_can_be_measured():
    """The figures of docs/OPERATIONS.md, from a shorter run; those of servers are in integrations/test_ends.py."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "--seconds=20", "--kills=2", "--no-servers"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n| ") == 1 + 15  # the line below the header, and the rows


def test_a_full_spool_is_reported_once(spool, caplog):
    sender = OTLPExporter(f"http://127.0.0.1:{free_port()}", environ={}, spool=spool, spool_bytes=1 << 20)
    spans = made(500)
    while not sender.ledger().evicted:
        sender.export(spans)
    sender.export(spans)
    sender.shutdown()
    said = [line for line in lines(caplog) if "is full" in line]
    assert said == [
        f"the spool is full: its oldest spans are dropped (reported once; `tracekit spool {spool}` counts all)",
    ]


def _fork_in_the_middle(url, spool, protocol):
    """In its own process: fork while the exporter's threads are running, and export on both sides."""
    tracekit.configure(exporter=OTLPExporter(url, environ={}, spool=spool, protocol=protocol), environ={})
    for number in range(5):
        tracekit.span(f"before {number}").end()
        tracekit.flush(20)
        if not (pid := os.fork()):
            tracekit.span(f"child {number}").end()
            done = tracekit.flush(20) and tracekit.shutdown(20)
            os._exit(0 if done else 1)
        tracekit.span(f"parent {number}").end()
        assert os.waitpid(pid, 0)[1] == 0
    assert tracekit.flush(20)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork()")
@pytest.mark.parametrize("has_spool", [False, True])
def test_forks_while_it_is_sending_lose_nothing(collector, spool, has_spool):
    process = multiprocessing.get_context("spawn").Process(
        target=_fork_in_the_middle, args=(collector.url, str(spool) if has_spool else None, "http/protobuf")
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert set(collector.names) == {f"{who} {number}" for who in ("before", "child", "parent") for number in range(5)}
