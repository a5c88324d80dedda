"""Services of tracekit and of OpenTelemetry in Go, Java, JavaScript, Python and Rust, which all speak one small protocol.

A request is a POST to ``http://HOST/FORMAT``, or a call of ``/tracekit.test.Relay/FORMAT`` with a
``google.protobuf.StringValue``. The format is that of its trace headers: w3c, b3, b3multi or jaeger, each with W3C
Baggage. The body is a route: the URLs of the next services, one a line, ``grpc://HOST/FORMAT`` for gRPC. A service
calls the first with the rest of the route. Its answer is a line of its own, in the form of a URL's query, and then the
answer of the next service.

    service    the name of the service
    trace_id   of its span, as the two below
    span_id
    parent_id  the parent that the headers named
    sent_id    the span that it named in the headers of its own call; absent at the end of the route
    flags      as the headers had them, two hex digits
    tracestate likewise
    label.KEY  a label

A service in another language prints its ports, and ends when its standard input is closed.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

import grpc
import httpx
from google.protobuf.wrappers_pb2 import StringValue

import tracekit
from tracekit.integrations import grpc as grpc_tracing
from tracekit.integrations import http_server
from tracekit.integrations.httpx import TraceTransport
from tracekit.wire import b3, jaeger, w3c

from ..tools import builds

HERE = Path(__file__).parent
FORMATS = {
    "w3c": [w3c.TRACECONTEXT, w3c.BAGGAGE],
    "b3": [b3.SINGLE, w3c.BAGGAGE],
    "b3multi": [b3.MULTI, w3c.BAGGAGE],
    "jaeger": [jaeger.JAEGER, w3c.BAGGAGE],
}
METHOD = "/tracekit.test.Relay/"
TIMEOUT_S = 20


class Hop(NamedTuple):
    """A service's line."""

    service: str
    trace_id: str
    span_id: str
    parent_id: str
    sent_id: str
    flags: int
    tracestate: str
    labels: dict[str, str]


def parse(answer):
    """Return the hops of *answer*, in the order of the route."""
    hops = []
    for line in answer.splitlines():
        values = dict(parse_qsl(line, keep_blank_values=True, strict_parsing=True))
        labels = {name[6:]: values.pop(name) for name in list(values) if name.startswith("label.")}
        hops.append(Hop(**{"sent_id": "", **values, "flags": int(values["flags"], 16), "labels": labels}))
    return hops


def go():
    return [builds.golang(HERE / "go")]


def java():
    folder = builds.java(HERE / "java")
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{folder}:{folder}/lib/*", "Relay"]


def node():
    return ["node", builds.node(HERE / "node") / "relay.mjs"]


def python():
    return [sys.executable, HERE / "python" / "relay.py"]


def rust():
    return [builds.rust(HERE / "rust")]


LANGUAGES = {"go": go, "java": java, "node": node, "python": python, "rust": rust}


@contextlib.contextmanager
def run(language):
    """Build the service of *language* if that has not been done, run it, and yield its hosts."""
    with subprocess.Popen(LANGUAGES[language](), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield [f"127.0.0.1:{port}" for port in process.stdout.readline().split()]
        finally:
            process.stdin.close()
            process.wait(TIMEOUT_S)


class Inside(httpx.HTTPTransport):
    """The transport under tracekit's: notes the current span, which the headers name."""

    def handle_request(self, request):
        request.extensions["sent"].append(tracekit.current_span().context.span_id)
        return super().handle_request(request)


class Ours:
    """The services of tracekit, in this process: ``web`` over HTTP and ``rpc`` over gRPC, traced by the integrations."""

    def __init__(self):
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        transport = TraceTransport(Inside(limits=limits))
        self.client = httpx.Client(transport=transport, timeout=TIMEOUT_S, trust_env=False)
        self.channels = {}
        self.lock = threading.Lock()

    def __enter__(self):
        ours = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                route = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
                answer = ours.serve("tracekit-http", route).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_): ...

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self.http = Server(("127.0.0.1", 0), Handler)
        http_server.instrument(self.http)
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()
        self.web = f"127.0.0.1:{self.http.server_address[1]}"
        interceptors = [grpc_tracing.server_interceptor()]
        self.server = grpc.server(ThreadPoolExecutor(32), interceptors=interceptors)
        method = grpc.unary_unary_rpc_method_handler(
            lambda request, _: StringValue(value=self.serve("tracekit-grpc", request.value)),
            StringValue.FromString,
            StringValue.SerializeToString,
        )
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tracekit.test.Relay", dict.fromkeys(FORMATS, method)),)
        )
        self.rpc = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()
        return self

    def __exit__(self, *_):
        self.client.close()
        for channel in self.channels.values():
            channel.close()
        self.server.stop(None).wait()
        http_server.uninstrument(self.http)
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()

    def serve(self, service, route):
        """Answer a request in the server's span."""
        span = tracekit.current_span()
        parent = span.parent if isinstance(span.parent, tracekit.SpanContext) else None
        line = {
            "service": service,
            "trace_id": span.context.trace_id,
            "span_id": span.context.span_id,
            "parent_id": parent.span_id if parent else "",
            "flags": f"{parent.flags if parent else 0:02x}",
            "tracestate": str(parent.state) if parent else "",
        } | {f"label.{key}": value for key, value in tracekit.current_labels().items()}
        after = ""
        if route:
            line["sent_id"], after = self.call(route)
        return f"{urlencode(line)}\n{after}"

    def call(self, route):
        """Call the first service of *route*; return the id of the client's span, if known, and the answer."""
        url, _, rest = route.partition("\n")
        if not url.startswith("grpc:"):
            sent = []
            answer = self.client.post(url, content=rest.encode(), extensions={"sent": sent})
            assert answer.status_code == 200, answer.text
            return sent[0], answer.text
        host, _, method = url.removeprefix("grpc://").partition("/")
        with self.lock:
            if host not in self.channels:
                self.channels[host] = grpc.insecure_channel(host)
                grpc_tracing.instrument(self.channels[host])
        stub = self.channels[host].unary_unary(METHOD + method, StringValue.SerializeToString, StringValue.FromString)
        return "", stub(StringValue(value=rest), timeout=TIMEOUT_S).value

    def travel(self, *urls):
        """Call the services at *urls* one behind the other, and return their hops."""
        return parse(self.call("\n".join(urls))[1])
