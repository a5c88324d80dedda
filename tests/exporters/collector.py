"""Collectors on loopback for the tests of OTLP: one that keeps its requests, and a proxy with faults."""

from __future__ import annotations

import base64
import gzip
import http.client
import re
import socket
import threading
from collections import Counter
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator


def parse_json(octets: bytes, kind: Any = ExportTraceServiceRequest) -> Any:
    """Return the request of *kind* in OTLP's JSON, in which ids are hex and not base64, as in protobuf's JSON."""
    text = re.sub(
        rb'"(traceId|spanId|parentSpanId)":"([0-9a-f]+)"',
        lambda found: b'"%s":"%s"' % (found[1], base64.urlsafe_b64encode(bytes.fromhex(found[2].decode()))),
        octets,
    )
    # In the URL-safe alphabet, the only one that protobuf's parser reads without a warning since Python 3.15.
    text = re.sub(rb'"bytesValue":"[^"]*"', lambda found: found[0].translate(bytes.maketrans(b"+/", b"-_")), text)
    return json_format.Parse(text, kind())


class Server(ThreadingHTTPServer):
    """A real HTTP server in a thread, on a free port of loopback; ``with`` closes it and every connection.

    It speaks TLS if *tls* is given.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, handler: type[BaseHTTPRequestHandler], port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), handler)
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.server_port}/v1/traces"
        if tls is not None:  # before the thread looks at the socket, which has no descriptor meanwhile
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def get_request(self):
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def handle_error(self, request, client_address):
        pass  # the client has disconnected

    def server_close(self):
        self.shutdown()
        self.thread.join()
        for connection in self.connections:
            connection.close() if connection.fileno() < 0 else hang_up(connection)
        super().server_close()

    def __exit__(self, *_):
        self.server_close()


def hang_up(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Collector(Server):
    """Decodes the requests with the official schema, and keeps them.

    ``answers`` gives the next answers: a callable gets the handler and the request and answers itself; after
    the last, all is taken. Logs and metrics are taken and kept as octets, in ``others`` by path.
    """

    def __init__(
        self,
        *answers: Callable[[Handler, ExportTraceServiceRequest], object],
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answers: Iterator[Callable[[Handler, ExportTraceServiceRequest], object]] = iter(answers)
        self.lock = threading.Lock()
        self.requests: list[ExportTraceServiceRequest] = []
        self.headers: list[dict[str, str]] = []
        self.others: dict[str, list[bytes]] = {}
        self.clients: set[tuple[str, int]] = set()
        collector = self

        class Answering(Handler):
            def do_POST(self):
                collector.receive(self)

        super().__init__(Answering, port, tls)

    def receive(self, handler: Handler) -> None:
        body = handler.body()
        if handler.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if handler.path in {"/v1/logs", "/v1/metrics"}:
            self.others.setdefault(handler.path, []).append(body)
            handler.answer(200, b"", Content_Type=handler.headers["Content-Type"])
            return
        if handler.headers["Content-Type"] == "application/json":
            request = parse_json(body)
        else:
            request = ExportTraceServiceRequest.FromString(body)
        with self.lock:
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            self.clients.add(handler.client_address)
            answer = next(self.answers, take)
        answer(handler, request)

    def keep(self, request: ExportTraceServiceRequest) -> None:
        with self.lock:
            self.requests.append(request)

    @property
    def spans(self):
        """Every accepted span."""
        with self.lock:
            return [
                span
                for request in self.requests
                for resource in request.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]

    @property
    def names(self) -> Counter[str]:
        return Counter(span.name for span in self.spans)


# ---- answers


def take(handler: Handler, request: ExportTraceServiceRequest) -> None:
    handler.server.keep(request)
    handler.answer(200, b"", Content_Type=handler.headers["Content-Type"])


def refuse(status: int, body: bytes = b"", **headers: str):
    """Answer with *status*, and keep nothing."""
    return lambda handler, _: handler.answer(status, body, **headers)


def reject(count: int, message: str):
    """Keep the request, and answer that *count* of its spans were rejected."""

    def answer(handler, request):
        response = ExportTraceServiceResponse()
        response.partial_success.rejected_spans = count
        response.partial_success.error_message = message
        handler.server.keep(request)
        if handler.headers["Content-Type"] == "application/json":
            handler.answer(200, json_format.MessageToJson(response).encode(), Content_Type="application/json")
        else:
            handler.answer(200, response.SerializeToString(), Content_Type="application/x-protobuf")

    return answer


def cut(handler: Handler, _) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True
    hang_up(handler.connection)


def truncate(handler: Handler, request: ExportTraceServiceRequest | None) -> None:
    """Keep the request, if this is a collector, and break off in the middle of the answer."""
    if request is not None:
        handler.server.keep(request)
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100\r\n\r\n\x0a")
    handler.wfile.flush()
    cut(handler, request)


def babble(octets: bytes):
    """Write *octets* instead of an answer."""

    def answer(handler, request):
        handler.wfile.write(octets)
        handler.wfile.flush()
        cut(handler, request)

    return answer


def lose_answer(handler: Handler, _) -> None:
    """In a proxy: pass the request on, and disconnect before the answer."""
    raise NotImplementedError("only a proxy can")


def be_late(handler: Handler, _) -> None:
    """In a proxy: pass the request on, and answer a tenth of a second later."""
    raise NotImplementedError("only a proxy can")


class Silence:
    """Accept the request and do not answer, until ``over`` is set so that the server's thread can end."""

    def __init__(self) -> None:
        self.entered, self.over = threading.Event(), threading.Event()

    def __call__(self, handler: Handler, request: ExportTraceServiceRequest) -> None:
        self.entered.set()
        self.over.wait(30)
        cut(handler, request)


# ---- a proxy


class Proxy(Server):
    """Passes requests on to the collector at *target*, except those for which ``fault(number)`` returns an answer."""

    def __init__(self, target: str, fault: Callable[[int], Callable[[Handler, object], object] | None]) -> None:
        host = target.partition("://")[2].partition("/")[0]
        self.count = 0
        self.faults = Counter()
        self.over = threading.Event()
        lock = threading.Lock()
        proxy = self

        class Passing(Handler):
            def do_POST(self):
                body = self.body()
                with lock:
                    proxy.count += 1
                    chosen = fault(proxy.count)
                    proxy.faults[getattr(chosen, "__name__", "pass")] += 1
                if chosen not in (None, lose_answer, be_late):
                    chosen(self, None)
                    return
                upstream = http.client.HTTPConnection(host, timeout=20)
                try:
                    upstream.request("POST", self.path, body, dict(self.headers.items()))
                    response = upstream.getresponse()
                    answer = response.read()
                    if chosen is lose_answer:
                        cut(self, None)
                        return
                    if chosen is be_late:
                        proxy.over.wait(0.1)
                    kind = response.headers.get("Content-Type", "application/x-protobuf")
                    self.answer(response.status, answer, Content_Type=kind)
                finally:
                    upstream.close()

        super().__init__(Passing)


# ---- gRPC


class GrpcCollector:
    """The same over gRPC: ``answers`` return responses, or raise through the servicer's context."""

    def __init__(self, *answers, port: int = 0) -> None:
        import grpc

        self.answers = iter(answers)
        self.requests: list[ExportTraceServiceRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        method = grpc.unary_unary_rpc_method_handler(
            self.export,
            request_deserializer=ExportTraceServiceRequest.FromString,
            response_serializer=ExportTraceServiceResponse.SerializeToString,
        )
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.url = f"http://127.0.0.1:{self.port}"
        self.server.start()

    def export(self, request, context):
        self.metadata.append(dict(context.invocation_metadata()))
        answer = next(self.answers, None)
        if answer is not None:
            return answer(request, context)
        self.requests.append(request)
        return ExportTraceServiceResponse()

    @property
    def spans(self):
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop(None).wait()
