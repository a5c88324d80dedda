"""A service of OpenTelemetry Python. ``services.py`` has the protocol."""

from __future__ import annotations

import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode, urlsplit

from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

FORMATS = {
    "w3c": CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()]),
    "b3": CompositePropagator([B3SingleFormat(), W3CBaggagePropagator()]),
    "b3multi": CompositePropagator([B3MultiFormat(), W3CBaggagePropagator()]),
    "jaeger": CompositePropagator([JaegerPropagator(), W3CBaggagePropagator()]),  # its own labels too: uberctx-KEY
}
TRACER = TracerProvider().get_tracer("interop")
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def serve(url, headers, route):
    """Return the answer to a request."""
    remote = format_of(url).extract(headers)
    parent = trace.get_current_span(remote).get_span_context()
    with TRACER.start_as_current_span("relay", context=remote) as span:
        line = {
            "service": "python",
            "trace_id": f"{span.get_span_context().trace_id:032x}",
            "span_id": f"{span.get_span_context().span_id:016x}",
            "parent_id": f"{parent.span_id:016x}",
            "flags": f"{parent.trace_flags:02x}",
            "tracestate": parent.trace_state.to_header(),
        }
        line |= {f"label.{key}": value for key, value in baggage.get_all(remote).items()}
        after = ""
        if route:
            following, _, rest = route.partition("\n")
            inside = trace.set_span_in_context(span, remote)
            with TRACER.start_as_current_span("call", context=inside) as client:
                line["sent_id"] = f"{client.get_span_context().span_id:016x}"
                sent: dict[str, str] = {}
                format_of(following).inject(sent, trace.set_span_in_context(client, remote))
                request = urllib.request.Request(following, rest.encode(), sent)
                with OPENER.open(request, timeout=20) as answer:
                    after = answer.read().decode()
    return f"{urlencode(line)}\n{after}"


def format_of(url):
    return FORMATS[urlsplit(url).path.strip("/")]


class Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        route = self.rfile.read(int(self.headers["content-length"])).decode()
        answer = serve(self.path, {name.lower(): value for name, value in self.headers.items()}, route).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_): ...


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
    server.serve_forever()
