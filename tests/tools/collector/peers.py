"""A Collector of gRPC alone, one whose certificate expires, and one behind a proxy that buffers; each with a spool.

No span is lost, and ``tracekit doctor --endpoint`` names the cause meanwhile.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import os
from typing import TYPE_CHECKING

import tracekit
from tracekit.cli.doctor import examine
from tracekit.exporters.otlp import OTLPExporter
from tracekit.testing import recording

from ...exporters.collector import Handler
from ...exporters.collector import Server as HttpServer
from .server import ARRIVE_S, EXAMPLES, Failed, Server, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import trustme

SPANS = 100
LIFE = datetime.timedelta(seconds=20)  # of the certificate: long enough for the Collector to start
PROTOCOLS = ("http/protobuf", "grpc")
HTTP = """      http:
        endpoint: ${env:COLLECTOR_HTTP:-127.0.0.1:4318}
"""


def produce(exporter: OTLPExporter, sent: set[str]) -> None:
    """Give the exporter a batch of spans, and add their ids to *sent*."""
    with recording() as spans:
        for number in range(SPANS):
            tracekit.span("work", attributes={"number": number}).end()
        batch = spans.spans
    exporter.export(batch)
    sent.update(span.context.span_id for span in batch)


def settle(exporter: OTLPExporter, *, waiting: int = 0) -> None:
    """Send what can be sent; *waiting* spans remain in the spool."""
    if waiting:
        exporter.flush(10)
    else:
        wait_until(lambda: exporter.flush(5), ARRIVE_S, "the spool was not emptied")
    ledger = exporter.ledger()
    if ledger is None or ledger.waiting != waiting or ledger.sent + waiting != ledger.put:
        raise Failed(f"{waiting} spans should be waiting: {ledger}")


def expect_arrived(server: Server, sent: set[str]) -> None:
    server.stop()  # writes everything
    arrived = server.span_ids
    if set(arrived) != sent:
        raise Failed(f"{len(sent)} spans were sent, {len(set(arrived))} arrived")
    print(f"    {len(sent)} of {len(sent)} spans arrived, with {len(arrived) - len(sent)} copies", flush=True)


def expect_cause(url: str, said: str, protocol: str = "http/protobuf", authority: Path | None = None) -> None:
    """Check that the doctor names the cause *said* for *url*."""
    variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_TIMEOUT": "2000"}
    if authority is not None:
        variables["OTEL_EXPORTER_OTLP_CERTIFICATE"] = str(authority)
    with environment(variables):
        (finding,) = [finding for finding in examine(endpoint=url) if finding.name == "endpoint"]
    if finding.ok or said not in finding.text:
        raise Failed(f"the doctor should say {said!r}: {finding.text}")
    print(f"    doctor: {finding.text[:200]}", flush=True)


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def grpc_alone(program: Path, folder: Path) -> None:
    """A Collector without a port for HTTP: batches wait, and are sent when the protocol has been changed."""
    print("  a Collector that speaks gRPC alone", flush=True)
    text = (EXAMPLES / "file.yaml").read_text()
    if HTTP not in text:
        raise Failed("file.yaml has another receiver")
    (folder / "grpc.yaml").write_text(text.replace(HTTP, ""))
    sent: set[str] = set()
    with Server(program, folder, configs=[folder / "grpc.yaml"], has_http=False) as server:
        server.start()
        exporter = OTLPExporter(server.url("grpc"), spool=folder / "spool.db", timeout_s=5, environ={})
        produce(exporter, sent)
        settle(exporter, waiting=SPANS)
        exporter.shutdown()
        expect_cause(server.url("grpc"), "4317 is the port of OTLP/gRPC")
        exporter = OTLPExporter(server.url("grpc"), protocol="grpc", spool=folder / "spool.db", environ={})
        produce(exporter, sent)
        settle(exporter)
        exporter.shutdown()
        expect_arrived(server, sent)


def expiring(program: Path, folder: Path, issuer: trustme.CA) -> None:
    """A certificate expires while connections are open: they last; new ones fail until it has been renewed."""
    print("  a Collector whose certificate expires", flush=True)
    authority, files = folder / "authority.pem", (folder / "certificate.pem", folder / "key.pem")
    issuer.cert_pem.write_to_path(authority)

    def renew(until: datetime.datetime) -> None:
        issued = issuer.issue_cert("127.0.0.1", not_after=until)
        issued.cert_chain_pems[0].write_to_path(files[0])
        issued.private_key_pem.write_to_path(files[1])

    def now() -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    expiry = now() + LIFE
    renew(expiry)
    sent: set[str] = set()
    with Server(program, folder, files) as server:
        server.start()
        exporters = [
            OTLPExporter(
                server.url(protocol),
                protocol=protocol,
                certificate=authority,
                spool=folder / f"{protocol[:4]}.db",
                timeout_s=5,
                environ={},
            )
            for protocol in PROTOCOLS
        ]
        for exporter in exporters:
            produce(exporter, sent)
            settle(exporter)
        wait_until(lambda: now() > expiry, LIFE.total_seconds() + 5, "the certificate did not expire")
        for exporter in exporters:
            produce(exporter, sent)
            settle(exporter)
        print(f"    expired: {len(sent)} spans sent, the last of them over connections made before", flush=True)
        server.stop()
        server.start()
        for exporter, protocol in zip(exporters, PROTOCOLS, strict=True):
            produce(exporter, sent)
            settle(exporter, waiting=SPANS)
            expect_cause(server.url(protocol), "its certificate has expired", protocol, authority)
        renew(now() + datetime.timedelta(days=1))
        server.stop()
        server.start()
        for exporter in exporters:
            settle(exporter)
            exporter.shutdown()
        expect_arrived(server, sent)


class Buffering(HttpServer):
    """A proxy that passes whole requests on, and while ``is_slow`` keeps the answers until the client has gone."""

    def __init__(self, port: int) -> None:
        self.is_slow = True
        proxy = self

        class Passing(Handler):
            def do_POST(self) -> None:
                body = self.body()
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                with contextlib.closing(upstream):
                    upstream.request("POST", self.path, body, dict(self.headers.items()))
                    response = upstream.getresponse()
                    answer = response.read()
                if proxy.is_slow:
                    self.rfile.read(1)
                    return
                self.answer(response.status, answer, Content_Type=response.headers["Content-Type"])

        super().__init__(Passing)


def buffered(program: Path, folder: Path) -> None:
    """A proxy's answers come too late: batches are sent again until one comes in time, and arrive more than once."""
    print("  a Collector behind a proxy that buffers", flush=True)
    sent: set[str] = set()
    with Server(program, folder) as server:
        server.start()
        with Buffering(server.http_port) as proxy:
            exporter = OTLPExporter(proxy.url, spool=folder / "spool.db", timeout_s=1, environ={})
            produce(exporter, sent)
            settle(exporter, waiting=SPANS)
            expect_cause(proxy.url, "a proxy before it holds requests or answers back")
            proxy.is_slow = False
            settle(exporter)
            exporter.shutdown()
        server.stop()
        sent.update(doctors(server))
        expect_arrived(server, sent)


def doctors(server: Server) -> set[str]:
    """The ids of the doctor's own spans, which the proxy has passed on."""
    spans = (span for resource in server.resources for scope in resource.scope_spans for span in scope.spans)
    return {span.span_id.hex() for span in spans if span.name == "tracekit doctor"}
