"""Collectors that do not fit: of another version or protocol, with a certificate that is not valid. The reason is named."""

from __future__ import annotations

import datetime
import ssl
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import trustme

import tracekit
from tracekit.cli.doctor import examine
from tracekit.exporters._otlp.causes import grpc_fault, tls_fault
from tracekit.exporters.otlp import OTLPExporter

from .collector import Collector, GrpcCollector, Handler, Server, refuse

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
# An answer with fields that this version does not know: in the message, and in partial_success, which rejects nothing.
NEWER = b"\x7a\x03new" + b"\x0a\x05\x7a\x03new" + b"\xf8\x07\x01"
NEWER_JSON = b'{"partialSuccess":{"rejectedSpans":"0","retryHints":[1]},"newField":{"a":null}}'


def doctor(url, monkeypatch, protocol="http/protobuf", authority=None):
    """Return what ``tracekit doctor --endpoint`` finds out about *url*."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    if authority is not None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(authority))
    (finding,) = [finding for finding in examine(endpoint=url) if finding.name == "endpoint"]
    return finding


class GrpcServer:
    """A gRPC server whose ``Export`` returns *answer*, with TLS if *issued* is a certificate."""

    def __init__(self, issued=None, answer=b""):
        self.server = grpc.server(ThreadPoolExecutor(2))
        method = grpc.unary_unary_rpc_method_handler(lambda *_: answer)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        if issued is None:
            self.url = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        else:
            chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
            credentials = grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), chain)])
            self.url = f"https://127.0.0.1:{self.server.add_secure_port('127.0.0.1:0', credentials)}"
        self.server.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(None).wait()


class TlsCollector(Collector):
    """A ``Collector`` with a certificate."""

    def __init__(self, issued):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(context)
        super().__init__(tls=context)


TLS = {"http/protobuf": TlsCollector, "grpc": GrpcServer}


@pytest.fixture(scope="module")
def issuer():
    return trustme.CA()


@pytest.fixture
def authority(issuer, tmp_path):
    issuer.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


# ---- certificates

CERTIFICATES = {
    "expired": ("127.0.0.1", -2 * DAY, -DAY, "its certificate has expired: renew it"),
    "for another host": ("other.example", -DAY, DAY, "ertificate is not valid for '127.0.0.1'|is for another host"),
}


@pytest.mark.parametrize("protocol", TLS)
def test_a_valid_certificate_is_accepted(protocol, issuer, authority, monkeypatch):
    with TLS[protocol](issuer.issue_cert("127.0.0.1")) as collector:
        assert doctor(collector.url, monkeypatch, protocol, authority).ok


@pytest.mark.parametrize("octets", [b"", b"half of a fi", b"-----BEGIN CERTIFICATE-----\nMIIB"])
@pytest.mark.parametrize("protocol", TLS)
def test_while_a_certificate_is_being_replaced_the_one_from_before_is_used(protocol, octets, issuer, authority):
    sender = OTLPExporter("https://127.0.0.1:1", environ={}, protocol=protocol, certificate=authority)
    first = sender._client._current_transport()
    authority.write_bytes(octets)
    assert sender._client._current_transport() is first
    issuer.cert_pem.write_to_path(authority)
    assert sender._client._current_transport() is not first
    first.close()
    sender.shutdown()


@pytest.mark.parametrize("name", ["certificate", "client_certificate", "client_key"])
@pytest.mark.parametrize("protocol", TLS)
def test_a_certificate_that_is_not_whole_is_named(protocol, name, authority, tmp_path):
    (tmp_path / "half.pem").write_bytes(authority.read_bytes()[:-20])
    files = dict.fromkeys(("certificate", "client_certificate", "client_key"), authority)
    files[name] = tmp_path / "half.pem"
    sender = OTLPExporter("https://127.0.0.1:1", environ={}, protocol=protocol, timeout_s=20, **files)
    answer = sender._client.send(b"", "application/x-protobuf", "")
    assert answer.is_lasting
    assert f"{name} is not valid" in answer.reason or f"{name} or client_key is not valid" in answer.reason
    sender.shutdown()


@pytest.mark.parametrize("case", CERTIFICATES)
@pytest.mark.parametrize("protocol", TLS)
def test_an_invalid_certificate_is_named(protocol, case, issuer, authority, monkeypatch):
    host, begin, end, said = CERTIFICATES[case]
    issued = issuer.issue_cert(host, not_before=NOW + begin, not_after=NOW + end)
    with TLS[protocol](issued) as collector:
        finding = doctor(collector.url, monkeypatch, protocol, authority)
    assert not finding.ok
    assert any(words in finding.text for words in said.split("|")), finding.text


@pytest.mark.parametrize("protocol", TLS)
def test_an_unknown_authority_is_named(protocol, issuer, monkeypatch):
    with TLS[protocol](issuer.issue_cert("127.0.0.1")) as collector:
        finding = doctor(collector.url, monkeypatch, protocol)
    assert not finding.ok
    reason = "its certificate is not trusted (unable to get local issuer certificate): set certificate"
    assert reason in finding.text


@pytest.mark.parametrize("protocol", TLS)
def test_a_collector_without_tls_is_named(protocol, monkeypatch):
    with Collector() if protocol != "grpc" else GrpcServer() as collector:
        finding = doctor(collector.url.replace("http:", "https:"), monkeypatch, protocol)
    assert finding.text.endswith("it does not speak TLS: write http:// instead of https://")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate is not yet valid (_ssl.c:1)",
            "not yet",
        ),
        (
            "error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED",
            "its certificate is not trusted: set",
        ),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version (_ssl.c:1)", ""),
    ],
)
def test_other_faults_of_tls(text, said):
    assert tls_fault(text).startswith(said) or said in tls_fault(text)
    assert bool(tls_fault(text)) == bool(said)


# ---- protocols


def test_a_port_of_http_is_named_to_grpc(monkeypatch):
    with Collector() as collector:
        finding = doctor(collector.url.removesuffix("/v1/traces"), monkeypatch, "grpc")
    assert "it does not speak gRPC (4318 is the port of OTLP/HTTP)" in finding.text


def test_a_port_of_https_is_named_to_grpc(issuer, authority, monkeypatch):
    with TlsCollector(issuer.issue_cert("127.0.0.1")) as collector:
        finding = doctor(collector.url.removesuffix("/v1/traces"), monkeypatch, "grpc", authority)
    assert "it does not speak gRPC (4318 is the port of OTLP/HTTP)" in finding.text


def test_a_port_of_grpc_is_named_to_http(monkeypatch):
    with GrpcCollector() as collector:
        assert "4317 is the port of OTLP/gRPC" in doctor(collector.url, monkeypatch).text


def test_a_port_of_grpc_with_tls_is_named_to_http(issuer, authority, monkeypatch):
    with GrpcServer(issuer.issue_cert("127.0.0.1")) as collector:
        finding = doctor(collector.url, monkeypatch, authority=authority)
    # In the handshake or, with TLS 1.3, behind it.
    assert "4317 is the port of OTLP/gRPC" in finding.text


def test_tls_is_named_to_grpc_without_it(issuer, monkeypatch):
    with GrpcServer(issuer.issue_cert("127.0.0.1")) as collector:
        finding = doctor(collector.url.replace("https:", "http:"), monkeypatch, "grpc")
    assert "write https:// instead of http://" in finding.text


@pytest.mark.parametrize(
    "body", [b"Client sent an HTTP request to an HTTPS server.\n", b"The plain HTTP request was sent to HTTPS port"]
)
def test_tls_is_named_to_http_without_it(body, monkeypatch):
    with Collector(refuse(400, body)) as collector:
        assert doctor(collector.url, monkeypatch).text.endswith("it speaks TLS: write https:// instead of http://")


def test_a_lost_connection_of_grpc_has_no_other_cause():
    assert grpc_fault("Socket closed", is_secure=True) == ""
    assert grpc_fault("Failed to connect to remote host: Connection refused", is_secure=False) == ""


# ---- versions


@pytest.mark.parametrize(
    ("protocol", "kind", "answer"),
    [("http/protobuf", "application/x-protobuf", NEWER), ("http/json", "application/json", NEWER_JSON)],
)
def test_a_newer_collector_answers_with_unknown_fields(protocol, kind, answer, monkeypatch):
    with Collector(refuse(200, answer, Content_Type=kind)) as collector:
        finding = doctor(collector.url, monkeypatch, protocol)
    assert finding.ok, finding.text


def test_a_newer_collector_answers_with_unknown_fields_over_grpc(monkeypatch):
    with GrpcServer(answer=NEWER) as collector:
        finding = doctor(collector.url, monkeypatch, "grpc")
    assert finding.ok, finding.text


def test_a_collector_from_before_otlp_1_0_is_named(monkeypatch):
    """Its only path was /v1/trace."""
    with Collector(refuse(404)) as collector:
        finding = doctor(collector.url.removesuffix("/v1/traces"), monkeypatch)
    assert "answered 404" in finding.text


# ---- a proxy that buffers


class Buffering(Server):
    """A proxy that takes requests, and answers when it has *count* of them: all with the answer of a collector."""

    def __init__(self, count):
        self.bodies: list[bytes] = []
        proxy = self

        class Holding(Handler):
            def do_POST(self):
                proxy.bodies.append(self.body())
                if len(proxy.bodies) >= count:
                    self.answer(200, b"", Content_Type="application/x-protobuf")
                else:  # an answer that comes too late
                    self.connection.settimeout(20)
                    self.rfile.read(1)

        super().__init__(Holding)


def test_a_proxy_that_answers_too_late_loses_nothing_with_a_spool(tmp_path, caplog):
    """The first request is held for longer than ``timeout_s``; the same batch is sent again, and taken."""
    with Buffering(2) as proxy:
        exporter = OTLPExporter(proxy.url, spool=tmp_path / "spool.db", timeout_s=0.3, environ={})
        tracekit.configure(exporter=exporter, environ={})
        tracekit.span("job").end()
        tracekit.flush(20)
        assert any(exporter.flush(20) for _ in range(5))  # a flush ends at the first failure
        ledger = exporter.ledger()
        assert (ledger.put, ledger.sent, ledger.waiting) == (1, 1, 0)
        assert proxy.bodies[0] == proxy.bodies[1]
    assert "does not answer in time" in caplog.text
    assert sum("does not answer in time" in record.message for record in caplog.records) == 1
