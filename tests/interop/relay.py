"""The same service of OpenTelemetry Python: ``POST /?format=b3&next=URL`` calls URL in the same trace, with the same labels."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

PROPAGATORS = {
    "w3c": [TraceContextTextMapPropagator(), W3CBaggagePropagator()],
    "b3": [B3SingleFormat(), W3CBaggagePropagator()],
    "b3multi": [B3MultiFormat(), W3CBaggagePropagator()],
    "jaeger": [JaegerPropagator()],
}
TRACER = TracerProvider().get_tracer("interop")


class Relay(BaseHTTPRequestHandler):
    def do_POST(self):
        query = parse_qs(urlsplit(self.path).query)
        propagator = CompositePropagator(PROPAGATORS[query["format"][0]])
        remote = propagator.extract({name.lower(): value for name, value in self.headers.items()})
        headers: dict[str, str] = {}
        with TRACER.start_as_current_span("relay", context=remote) as span:
            propagator.inject(headers, trace.set_span_in_context(span, remote))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(urllib.request.Request(query["next"][0], b"", headers), timeout=10).close()
        answer = json.dumps(dict(baggage.get_all(remote))).encode()
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
