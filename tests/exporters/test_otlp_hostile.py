"""Hostile and unusual answers of collectors: bounded in time and memory, and interpreted correctly."""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import ssl
import threading
import tracemalloc
from itertools import pairwise

import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

import tracekit
from tracekit.exporters._otlp import answers as _answers
from tracekit.exporters._otlp.answers import parse_json_response
from tracekit.exporters._otlp.requests import Request
from tracekit.exporters._otlp.settings import otlp_settings
from tracekit.exporters.otlp import DeliveryError, OTLPExporter, encode_spans

from .collector import Collector, GrpcCollector, hang_up, refuse, take
from .test_otlp import exporter, first_reason, made, reason

# ---- time


class Drip:
    """Send *start*, then *piece* repeatedly for at least 10 s; ``is_done`` if the client did not disconnect before."""

    def __init__(self, start, piece):
        self.start, self.piece = start, piece
        self.over = threading.Event()
        self.is_done = False

    def __call__(self, handler, _):
        try:
            handler.wfile.write(self.start)
            for _ in range(100):  # headers, at most: http.client takes no more
                handler.wfile.write(self.piece)
                if self.over.wait(0.1):
                    return
            self.is_done = True
        except OSError:
            pass


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 ", b"O"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (CHUNKED, b"0"),
        (CHUNKED + b"1;", b"x"),
        (CHUNKED, b"1\r\n\n\r\n"),
        (CHUNKED + b"0\r\n", b"X: y\r\n"),
    ],
    ids=["status", "header", "headers", "100", "chunk size", "chunk extension", "chunks", "trailers"],
)
def test_an_answer_that_comes_an_octet_at_a_time_is_bounded_by_the_timeout(start, piece):
    drip = Drip(start, piece)
    with Collector(drip) as collector:
        # The second on a machine that is too busy to connect.
        assert re.search("(does not answer|cannot be reached) in time", reason(exporter(collector, timeout_s=0.3)))
        assert not drip.is_done
        drip.over.set()


def test_a_collector_that_reads_slowly_is_bounded_by_the_timeout(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    over = threading.Event()
    received = []

    def serve():
        with contextlib.suppress(OSError):  # the client may give up before it connects, and in the handshake
            connection, _ = listening.accept()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with context.wrap_socket(connection, server_side=True) as tls:
                while octets := tls.recv(1024):
                    received.append(len(octets))
                    if over.wait(0.01):
                        return

    tracekit.configure(environ={})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)
        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        sender = OTLPExporter(url, environ={}, timeout_s=0.5, certificate=tmp_path / "ca.pem")
        answer = sender._send(Request(bytes(16 << 20), 1, "application/x-protobuf", ""))
        sender.shutdown()
        over.set()
        thread.join(20)
    assert answer.outcome == "later"
    assert sum(received) < 16 << 20


def test_a_grpc_collector_that_never_answers_is_bounded_by_the_timeout():
    over = threading.Event()
    with GrpcCollector(lambda *_: over.wait(20)) as collector:
        assert "DEADLINE_EXCEEDED" in reason(exporter(collector, protocol="grpc", timeout_s=0.3))
        assert not over.is_set()
        over.set()


def test_after_a_grpc_call_without_an_answer_the_next_one_has_a_new_connection():
    """As after a connection that a firewall has forgotten, which HTTP closes as well."""
    over, peers = threading.Event(), []

    def answer(request, context):
        if request.resource_spans:
            over.wait(20)
        else:
            peers.append(context.peer())
        return ExportTraceServiceResponse()

    with GrpcCollector(*[answer] * 6) as collector:
        sender = exporter(collector, protocol="grpc")
        empty, spans = (Request(body, 1, "application/x-protobuf", "") for body in (b"", encode_spans(made(1))))
        for request, timeout_s in ((empty, 20), (empty, 20), (spans, 0.3), (spans, 0.3), (empty, 20), (empty, 20)):
            assert sender._send(request, timeout_s).outcome == ("taken" if request is empty else "later")
        sender.shutdown()
        over.set()
    assert [one == before for before, one in pairwise(peers)] == [True, False, True]


# ---- memory


def peak_of(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "deflate", "br"])
def test_an_unrequested_content_encoding_is_not_decoded(encoding):
    bomb = gzip.compress(gzip.compress(bytes(100 << 20)))
    said = []
    with Collector(refuse(200, bomb, Content_Type="application/x-protobuf", Content_Encoding=encoding)) as collector:
        sender = exporter(collector)
        assert peak_of(lambda: said.append(first_reason(sender))) < 10 << 20
        assert "accept-encoding" not in collector.headers[0] or collector.headers[0]["accept-encoding"] == "identity"
    assert said[0].endswith(f"but as no OTLP collector does (bad answer: the encoding {encoding} was not requested)")


def headers_without_end(handler, _):
    try:
        for _ in range(1000):
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n" + (b"X: " + b"y" * 60_000 + b"\r\n") * 10 + b"\r\n")
    except OSError:
        pass


def test_no_part_of_an_answer_is_read_past_its_limit():
    with Collector(headers_without_end) as collector:
        assert peak_of(lambda: first_reason(exporter(collector))) < 10 << 20


def test_a_grpc_answer_that_is_too_large_is_not_a_collectors():
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    def answer(size):
        response = ExportTraceServiceResponse()
        response.partial_success.error_message = "x" * size
        return response

    for size in (100_000, 5_000_000):
        with GrpcCollector(lambda *_, size=size: answer(size)) as collector:
            said = first_reason(exporter(collector, protocol="grpc"))
            assert "but as no OTLP collector does" in said


# ---- empty answers


def raw(*octets):
    def answer(handler, request):
        handler.server.keep(request)
        for piece in octets:
            handler.wfile.write(piece)
        handler.close_connection = True
        hang_up(handler.connection)

    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Type: text/html\r\n\r\n",
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n",
    ],
)
def test_an_empty_answer_is_success(head, caplog):
    with Collector(raw(head)) as collector:
        sender = exporter(collector)
        sender.export(made(2))
        assert sender.account().failed == 0
        sender.shutdown()
        assert len(collector.requests) == 1
    assert not caplog.records


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_an_answer_that_breaks_off_before_its_body_is_not_empty(head):
    with Collector(raw(head)) as collector:
        assert "closes the connection" in first_reason(exporter(collector))


def test_with_a_spool_an_empty_answer_empties_it(tmp_path):
    with Collector(refuse(204)) as collector:
        sender = exporter(collector, spool=tmp_path / "spool.db")
        sender.export(made(2))
        assert sender.flush(20)
        assert sender.ledger()[:2] == (2, 2)
        assert len(collector.headers) == 1
        sender.shutdown()


# ---- the content of answers


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "1" * 5000, '"1e999"', "[]", "{}", '"x"'])
def test_an_invalid_number_of_rejected_spans_is_not_a_collectors(number):
    body = b'{"partialSuccess": {"rejectedSpans": %s}}' % number.encode()
    with Collector(refuse(200, body, Content_Type="application/json")) as collector:
        sender = exporter(collector, protocol="http/json")
        answer = sender.probe(made()[0])
        sender.shutdown()
    if number in "[]{}":  # falsy values count as 0
        assert answer == ("taken", "", 0, None, False, False)
    else:
        assert "but as no OTLP collector does" in answer.reason


def test_numbers_of_rejected_spans():
    assert parse_json_response(b'{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "no"}}') == (3, "no")
    assert parse_json_response(b'{"partialSuccess": {"rejectedSpans": 3}}') == (3, "")


# ---- headers


RESERVED = ["Content-Length", "transfer-encoding", "HOST", "Content-Type", "content-encoding", "Connection", "TE"]


@pytest.mark.parametrize("name", [*RESERVED, "Accept-Encoding", "Expect", "Upgrade"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_headers_cannot_replace_those_of_the_request(name, protocol):
    with pytest.raises(ValueError, match=f"headers must not hold {name.lower()}, which the request sets itself"):
        OTLPExporter(environ={}, protocol=protocol, headers={"api-key": "secret", name: "secret"})


@pytest.mark.parametrize(
    ("name", "why"),
    [("grpc-timeout", "which the request sets itself"), ("a!b", "valid header names"), ("x-bin", "must hold text")],
)
def test_headers_that_grpc_cannot_send_are_an_error_of_the_constructor(name, why):
    with pytest.raises(ValueError, match=why):
        OTLPExporter(environ={}, protocol="grpc", headers={name: "x"})


def test_only_the_reserved_headers_of_the_environment_are_ignored():
    for variable in ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"):
        found, wrong = otlp_settings({variable: "api-key=a,Host=evil,content-type=application/x-protobuf"})
        assert found["headers"] == {"api-key": "a"}
        assert wrong == [
            f"{variable} names host, content-type, which the request sets itself; the other headers are used"
        ]


def test_a_custom_user_agent_replaces_the_default():
    sent = []

    def note(handler, request):
        sent.extend(handler.headers.get_all("User-Agent"))
        take(handler, request)

    with Collector(note) as collector:
        sender = exporter(collector, headers={"User-Agent": "mine"})
        sender.export(made())
        sender.shutdown()
    assert sent == ["mine"]


# ---- exceptions of transports


class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("hostile")


@pytest.mark.parametrize("error", [RuntimeError("bug"), Hostile(), MemoryError()], ids=lambda e: type(e).__name__)
def test_a_transport_that_raises_loses_only_its_batch(error, monkeypatch):
    monkeypatch.setattr(_answers, "_FIRST_S", 1000.0)  # longer than the time limit: there is one try
    with Collector() as collector:
        sender = exporter(collector)
        sender.export(made())

        def send(*_):
            raise error

        monkeypatch.setattr(sender._client._transport, "send", send)
        with pytest.raises(DeliveryError, match=type(error).__name__):
            sender.export(made())
        monkeypatch.undo()
        sender.export(made())
        sender.shutdown()
        assert len(collector.spans) == 2
