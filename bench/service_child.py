"""The processes of ``bench.service``: a server that is traced by one contender, a collector, a load generator.

``python -m bench.service_child serve CONTENDER URL``, ``collect COUNT`` and ``load URL SECONDS``. Each prints its ports or
figures as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import socket
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CONNECTIONS = 8
# All spans but the server's have a name that begins with this; the collector counts it in the requests' octets.
STEP = "step "
STEPS = 7


class Tracing(NamedTuple):
    """A contender: what opens a span, and the middleware."""

    span: Callable[[str, dict[str, Any]], Any]
    middleware: Callable[[Any], Any]


def _none(_url: str) -> Tracing:
    nothing = nullcontext()
    return Tracing(lambda _name, _attributes: nothing, lambda app: app)


def _tracekit(url: str) -> Tracing:
    import tracekit
    from tracekit.exporters.otlp import OTLPExporter
    from tracekit.integrations.asgi import TraceMiddleware

    tracekit.configure(service="shop", exporter=OTLPExporter(url))
    span = tracekit.span
    return Tracing(lambda name, attributes: span(name, attributes=attributes), TraceMiddleware)


def _through_opentelemetry(provider: Any) -> Tracing:
    """Return OpenTelemetry's API and instrumentation; without spans of their own for receive() and send()."""
    from opentelemetry import trace
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    if provider is not None:
        trace.set_tracer_provider(provider)
    start = trace.get_tracer("shop").start_as_current_span
    return Tracing(
        lambda name, attributes: start(name, attributes=attributes),
        lambda app: OpenTelemetryMiddleware(app, exclude_spans=["receive", "send"]),
    )


def _bridge(url: str) -> Tracing:
    import tracekit
    from tracekit.bridges import opentelemetry
    from tracekit.exporters.otlp import OTLPExporter

    tracekit.configure(service="shop", exporter=OTLPExporter(url))
    opentelemetry.install()
    return _through_opentelemetry(None)


def _sdk(url: str) -> Tracing:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    return _through_opentelemetry(provider)


def _fastotel(url: str) -> Tracing:
    from fastotel import OTLPSpanProcessor
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider()
    provider.add_span_processor(OTLPSpanProcessor(endpoint=f"{url}/v1/traces"))
    return _through_opentelemetry(provider)


def _ddtrace(url: str) -> Tracing:
    # v0.4 has the names in each span, where the collector counts them.
    os.environ.update(
        DD_TRACE_AGENT_URL=url,
        DD_TRACE_API_VERSION="v0.4",
        DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
        DD_REMOTE_CONFIGURATION_ENABLED="false",
    )
    from ddtrace.contrib.asgi import TraceMiddleware
    from ddtrace.trace import tracer

    def span(name: str, attributes: dict[str, Any]) -> Any:
        opened = tracer.trace(name, resource="item")  # else the resource repeats the name, and is counted
        opened.set_tags(attributes)
        return opened

    return Tracing(span, TraceMiddleware)


# The packages that each contender needs, and what sets it up.
CONTENDERS: dict[str, tuple[tuple[str, ...], Callable[[str], Tracing]]] = {
    "none": ((), _none),
    "tracekit": ((), _tracekit),
    "bridge": (("opentelemetry.instrumentation.asgi",), _bridge),
    "ddtrace": (("ddtrace",), _ddtrace),
    "fastotel": (("fastotel", "opentelemetry.instrumentation.asgi"), _fastotel),
    "opentelemetry": (("opentelemetry.exporter.otlp.proto.http", "opentelemetry.instrumentation.asgi"), _sdk),
}


def is_installed(contender: str) -> bool:
    """Tell whether the packages of *contender* can be imported; in a process of its own, as they patch things."""
    try:
        for package in CONTENDERS[contender][0]:
            importlib.import_module(package)
    except ImportError:
        return False
    return True


def application(tracing: Tracing) -> Any:
    """Return a Starlette application with seven spans a request inside the server's."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    span = tracing.span
    served = 0

    async def item(request: Any) -> PlainTextResponse:
        nonlocal served
        served += 1
        number = request.path_params["number"]
        with span("step load", {"item.id": number, "cache.hit": False}):
            for table in ("items", "prices", "stock"):
                with span(
                    "step query",
                    {"db.system.name": "postgresql", "db.operation.name": "SELECT", "db.collection.name": table},
                ):
                    pass
        with span("step render", {"template": "item.html"}):
            with span("step discount", {"customer.tier": "gold", "discount": 0.15}):
                pass
            with span("step template", {"template": "price.html", "currency": "EUR"}):
                text = f"item {number}"
        return PlainTextResponse(text)

    async def figures(_request: Any) -> JSONResponse:
        return JSONResponse([served, *[generation["collections"] for generation in gc.get_stats()]])

    return tracing.middleware(Starlette(routes=[Route("/items/{number:int}", item), Route("/figures", figures)]))


def serve(contender: str, url: str) -> None:
    """Run uvicorn until SIGTERM."""
    import uvicorn

    app = application(CONTENDERS[contender][1](url))
    listening = _listen()
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    _print([listening.getsockname()[1]])
    uvicorn.Server(config).run(sockets=[listening])


def _listen() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    listening.setblocking(False)
    return listening


def _print(figures: object) -> None:
    print(json.dumps(figures), flush=True)


class _Collector(asyncio.Protocol):
    """Reads HTTP requests of a known length, counts the spans in them, and accepts them all."""

    def __init__(self, counts: list[int], place: int) -> None:
        self.counts = counts
        self.place = place
        self.received = bytearray()
        self.size = -1  # of the request that is being received

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        while True:
            if self.size < 0:
                end = self.received.find(b"\r\n\r\n")
                if end < 0:
                    return
                head = bytes(self.received[:end]).lower()
                if b"transfer-encoding: chunked" in head:
                    raise NotImplementedError("the contender sends its request in chunks")
                length = next((line[15:] for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b"0")
                self.size = end + 4 + int(length)
                self.answer = self._answer(head)
            if len(self.received) < self.size:
                return
            self.counts[self.place] += self.received.count(STEP.encode(), 0, self.size)
            del self.received[: self.size]
            self.size = -1
            self.transport.write(self.answer)

    def _answer(self, head: bytes) -> bytes:
        kind, body = b"application/json", b"{}"
        if head.startswith(b"get /info"):  # Datadog's agent
            body = b'{"endpoints": ["/v0.4/traces"], "client_drop_p0s": false}'
        elif b"application/x-protobuf" in head:
            kind, body = b"application/x-protobuf", b""
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(body), body)


async def collect(count: int) -> None:
    """Serve *count* collectors until standard input ends, then print how many spans each has received."""
    counts = [0] * count
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda place=place: _Collector(counts, place), "127.0.0.1", 0)  # type: ignore[misc]
        for place in range(count)
    ]
    _print([server.sockets[0].getsockname()[1] for server in servers])
    await loop.run_in_executor(None, sys.stdin.read)
    _print(counts)


class _Client(asyncio.Protocol):
    """Sends the next request when the last one is answered; the answers are short."""

    def __init__(self, request: bytes, deadline: float) -> None:
        self.request = request
        self.deadline = deadline
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"HTTP") and not data.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(data.partition(b"\r\n")[0].decode())
        if time.monotonic() >= self.deadline:
            self.transport.close()
            self.done.set_result(None)
        elif b"HTTP/1.1 200" in data:  # maybe behind the body of the answer before
            self.transport.write(self.request)


async def load(host: str, port: int, path: str, seconds: float) -> None:
    """Send requests over ``CONNECTIONS`` connections, and print how long that took."""
    loop = asyncio.get_running_loop()
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    begin = time.monotonic()
    deadline = begin + seconds
    clients = [
        (await loop.create_connection(lambda: _Client(request, deadline), host, port))[1] for _ in range(CONNECTIONS)
    ]
    await asyncio.gather(*[client.done for client in clients])
    _print(time.monotonic() - begin)


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(work)
    else:
        uvloop.run(work)


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "serve":
        serve(*arguments)
    elif command == "installed":
        _print(is_installed(*arguments))
    elif command == "collect":
        _run(collect(int(arguments[0])))
    else:
        _run(load(arguments[0], int(arguments[1]), arguments[2], float(arguments[3])))
